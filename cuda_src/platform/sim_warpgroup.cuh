// The simulator's warpgroups (nnk/warpgroup.cuh): operands are read by their addresses in shared
// memory, as the instruction finds them.
//
// A product happens at the wait that covers it and not before: the latest moment a GPU may choose.
// Until then its sums are poison. Each warp computes its own rows, when it waits. That writes to
// shared memory are published is not checked.
#pragma once
#include "nnk/warpgroup.cuh"

namespace nnk {
namespace sim {

struct Product {
  void (*add)(Simulation& s, Fiber* lanes);
  Array memory;
  TilesOfStep at;
  int bytes, group;  // of the sums
  Site site;
};

// ---- operands -----------------------------------------------------------------------------------

// Where a byte lies that has this address without the swizzle of 128 bytes.
inline int swizzled(int address) { return address ^ (address >> 7 & 7) << 4; }

// The address, without swizzle, of byte 0 of an element: PTX ISA, "Strides" and "Canonical Layouts"
// of wgmma, for the swizzle of 128 bytes and 1024 bytes from 8 lines to the next.
template <class T, bool Turned> inline int address_of(int first, int column, int row, int term) {
  constexpr int size = int(sizeof(T)), line = 128 / size;
  if (Turned)
    return first + row / line * column + term / 8 * 1024 + term % 8 * 128 + row % line * size;
  return first + row / 8 * 1024 + row % 8 * 128 + term * size;
}

// Rows of an operand as values, terms together; `first` and `column` in chunks.
template <class T, bool Turned, int Rows, int Terms, class Value>
inline void read_operand(const Product& product, int first, int column, int from, Value* values) {
  constexpr int size = int(sizeof(T)), chunk = 16 / size;
  const int start = int(product.memory.offset) + first * 16;
  constexpr int rows_at_once = Turned ? chunk : 1, terms_at_once = Turned ? 1 : chunk;
  for (int row = 0; row < Rows; row += rows_at_once)
    for (int term = 0; term < Terms; term += terms_at_once) {
      const int address = swizzled(address_of<T, Turned>(start, column * 16, from + row, term));
      const char* bytes = touch_array(product.memory, (address - int(product.memory.offset)) / size,
                                      chunk, 16, Touch::read, product.site);
      for (int i = 0; i < chunk; ++i) {
        T x;
        __builtin_memcpy(&x, bytes + i * size, size_t(size));
        const int r = Turned ? row + i : row, t = Turned ? term : term + i;
        values[r * Terms + t] = matrix_value(x);
      }
    }
}

// ---- products -----------------------------------------------------------------------------------

template <class T, int N, bool TurnedA, bool TurnedB>
inline void add_together(Simulation& s, Fiber* lanes) {
  using Value = decltype(matrix_value(T()));  // and of the sums
  constexpr int terms = 32 / int(sizeof(T)), rows = 16;
  const auto& product = *static_cast<const Product*>(lanes[0].exchange.value);
  for (int lane = 1; lane < warp_width; ++lane) {
    const auto& other = *static_cast<const Product*>(lanes[lane].exchange.value);
    if (__builtin_memcmp(&other.at, &product.at, sizeof(product.at)) != 0)
      NNK_SIM_FAIL(s, product.site, "lanes 0 and %d of a warp multiply different tiles", lane);
  }
  static thread_local Value a[rows * terms], b[N * terms];
  const int warp = lanes[0].rank % warpgroup_threads / warp_width;
  read_operand<T, TurnedA, rows, terms>(product, product.at.a, product.at.column_a, warp * rows, a);
  read_operand<T, TurnedB, N, terms>(product, product.at.b, product.at.column_b, 0, b);
  for (int lane = 0; lane < warp_width; ++lane) {
    auto* c = static_cast<Value*>(lanes[lane].exchange.result);
    for (int i = 0; i < N / 2; ++i) {  // PTX ISA, "Register Fragments" of wgmma: matrix D
      const Value* row = a + (lane / 4 + i / 2 % 2 * 8) * terms;
      const Value* column = b + (i / 4 * 8 + lane % 4 * 2 + i % 2) * terms;
      for (int k = 0; k < terms; ++k) c[i] = multiply_add<T>(row[k], column[k], c[i]);
    }
  }
}

inline void issue_product(const Product& product, void* sums) {
  Simulation& s = *current;
  ProductQueue& queue = s.running->products;
  s.running->seen = product.site;
  if (queue.sums == nullptr) {
    queue.sums = sums;
    __builtin_memcpy(queue.kept, sums, size_t(product.bytes));
    __builtin_memset(sums, 0xff, size_t(product.bytes));
  }
  if (queue.sums != sums)
    NNK_SIM_FAIL(s, product.site, "products with different sums are under way in one thread");
  if (queue.end == queue.capacity) {
    const int capacity = queue.capacity == 0 ? 8 : 2 * queue.capacity;
    void* products = __builtin_realloc(queue.products, size_t(capacity) * sizeof(Product));
    if (products == nullptr) NNK_SIM_FAIL(s, product.site, "no memory for %d products", capacity);
    queue.products = static_cast<Product*>(products);
    queue.capacity = capacity;
  }
  queue.products[queue.end] = product;
  queue.products[queue.end++].group = queue.group;
}

// Carries out the products of all committed groups but the `pending` newest.
inline void wait_for_products(int pending, Site site) {
  Simulation& s = *current;
  ProductQueue& queue = s.running->products;
  s.running->seen = site;
  while (queue.first < queue.end && queue.products[queue.first].group < queue.group - pending) {
    const Product product = queue.products[queue.first++];
    exchange_lanes({"wgmma", &product, queue.kept, 0, product.bytes, warp_width, product.add},
                   site);
  }
  if (queue.first < queue.end || queue.sums == nullptr) return;
  __builtin_memcpy(queue.sums, queue.kept, size_t(queue.products[0].bytes));
  queue.sums = nullptr;
  queue.first = queue.end = 0;
}

inline void check_products_at_return(Simulation& s, Fiber& fiber) {
  const ProductQueue& queue = fiber.products;
  if (queue.first == queue.end) return;
  const Product& product = queue.products[queue.first];
  NNK_SIM_FAIL(s, product.site, "product of a warpgroup never %s by thread %d",
               product.group < queue.group ? "waited for" : "committed", fiber.rank);
}

}  // namespace sim

template <class T> struct Warpgroup {
  template <class Element, class G>
  static NNK_FN Shared<Element> memory(const G& group, int count) {
    return group.template dynamic_shared<Element>(0, count);
  }
  static NNK_FN void publish() {}
  static NNK_FN void begin(Site) {}
  static NNK_FN void commit(Site site) {
    sim::current->running->seen = site;
    ++sim::current->running->products.group;
  }
  template <int Pending> static NNK_FN void wait(Site site) {
    sim::wait_for_products(Pending, site);
  }
  template <int N, bool TurnedA, bool TurnedB, class Element, class Sum>
  static NNK_FN void add(const Shared<Element>& memory, const TilesOfStep& at, Sum* sums,
                         Site site) {
    constexpr int bytes = N / 2 * int(sizeof(Sum));
    static_assert(bytes <= sim::most_sums_bytes && sizeof(T) == sizeof(Element),
                  "a thread has 128 sums at most");
    static_assert(sizeof(T) == 2 || !(TurnedA || TurnedB), "16-bit elements alone can be turned");
    sim::issue_product(
        {sim::add_together<T, N, TurnedA, TurnedB>, memory.array, at, bytes, 0, site}, sums);
  }
};

}  // namespace nnk
