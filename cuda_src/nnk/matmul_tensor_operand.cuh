// An operand of a matrix product on matrix cores: its tiles in shared memory, and how they come
// there from global memory.
//
// "Rows" are rows of A or columns of B; each has K "terms". A tile of Rows x TileK lies by rows, or
// (`turned`) by terms, in lines of 16-byte chunks. Within a line, chunks are exchanged by a pattern
// that repeats every 8 lines, so that any 8 lines with a multiple of 8 below them, read at one
// chunk, touch all 32 banks of 4 bytes once, and so do 8 chunks in a row. Where threads store lines
// that are a multiple of 8 apart (vector_rows), the pattern goes on with every 8 lines. Of elements
// of 8 bytes, and warps of 32, any 4 lines in a row, read at 2 chunks in a row, do so too.
//
// Instructions of a warpgroup (mma_sm90.cuh) read tiles themselves, in one pattern: lines of 128
// bytes, of which 8 follow each other, their chunks exchanged as above. A tile that lies by terms
// is cut into `columns` of 128 bytes of rows then, each with the lines of all terms.
#pragma once
#include "nnk/shifted_words.cuh"
#include "nnk/types.cuh"
#include "nnk/view.cuh"

namespace nnk {

// How a tile comes to shared memory. `asynchronous`: without registers, while earlier tiles are
// multiplied; the others are loaded to registers one tile ahead of their store to shared memory.
enum : int {
  async_terms = 0,   // asynchronous, pieces of adjacent terms
  async_rows = 1,    // asynchronous, pieces of adjacent rows: a turned tile
  vector_terms = 2,  // chunks of adjacent terms
  vector_rows = 3,   // chunks of adjacent rows, transposed between load and store
  single_terms = 4,  // element by element, neighbouring threads reading neighbouring terms
  single_rows = 5,   // the same with neighbouring rows
};

// T: element type in shared memory, of the size of those in global memory
// Bytes: what lines of adjacent elements are aligned to, and whole multiples of, at most 16.
// Asynchronous copies are of pieces of so many bytes, 4 or more. Where chunks for registers may lie
// at any byte, they are read so if the machine can, or as words that are shifted.
// InColumns: whether tiles are those of a warpgroup
template <class T, class Index, int Rows, int TileK, int Threads, int Way, int Bytes = 16,
          bool InColumns = false>
struct TensorOperand {
  static constexpr int chunk = 16 / int(sizeof(T));
  static constexpr bool asynchronous = Way == async_terms || Way == async_rows;
  static constexpr bool turned = Way == async_rows;
  static constexpr int piece = asynchronous ? Bytes / int(sizeof(T)) : chunk;
  static_assert(piece >= 1 && (!asynchronous || Bytes >= 4), "cp.async moves 4, 8 or 16 bytes");
  static constexpr bool unaligned = (Way == vector_terms || Way == vector_rows) && Bytes < 16;
  // (A chunk of rows may reach beyond the last one.)
  static constexpr bool shifted = unaligned && !(reads_unaligned && Way == vector_terms);
  // Those that are seen through windows (conv_tensor_operand.cuh) gather, and may need a table.
  static constexpr bool gathers = false;
  static constexpr int table_words = 0;
  static constexpr int way = Way, rows_of_tile = Rows, terms_of_tile = TileK;
  using Value = T;
  static constexpr int elements = Rows * TileK, threads = Threads;

  // ---- the tile in shared memory --------------------------------------------------------------

  static constexpr int pitch = turned ? Rows : TileK;
  static constexpr int line_chunks = pitch / chunk;
  static_assert(is_power_of_two(TileK) &&
                    (asynchronous || (is_power_of_two(Threads) && is_power_of_two(Rows))),
                "tiles and blocks that registers are filled for are powers of two");
  static_assert(line_chunks >= 1, "a line has whole chunks");
  // Elements of a line of a column, and from a column to the next.
  static constexpr int column_line = 128 / int(sizeof(T)), column = column_line * TileK;
  static_assert(!InColumns || (pitch % column_line == 0 && (turned || pitch == column_line)),
                "terms are one line, or rows are whole ones");

  // Element index of a chunk of a line. Unsigned: a compiler then sees that multiples of 8 lines
  // more change nothing but the first term, and keeps one address for many.
  static NNK_FN int slot(int line, int at) {
    if constexpr (InColumns)
      return at / 8 * column + line * column_line + (at % 8 ^ int(unsigned(line) % 8)) * chunk;
    constexpr int lines_of_128_bytes = line_chunks < 8 ? 8 / line_chunks : 1;
    constexpr int exchanged = line_chunks < 8 ? line_chunks : 8;
    unsigned pattern = unsigned(line) / lines_of_128_bytes;
    if constexpr (Way == vector_rows)
      pattern ^= unsigned(line) / ((chunk > 8 ? chunk : 8) * lines_of_128_bytes);
    if constexpr (sizeof(T) == 8 && warp_width == 32) {  // its bits in the other order
      if constexpr (exchanged == 8) pattern = pattern % 2 * 4 | (pattern & 2) | pattern / 4 % 2;
      if constexpr (exchanged == 4) pattern = pattern % 2 * 2 | pattern / 2 % 2;
    }
    return line * pitch + (at ^ int(pattern % exchanged)) * chunk;
  }
  // A tile that begins at some element.
  struct Tile {
    int first;
    NNK_FN int operator()(int line, int at) const { return first + slot(line, at); }
  };

  // ---- what a thread copies -------------------------------------------------------------------

  // A unit is a piece, or `depth` chunks of adjacent terms that are transposed together.
  static constexpr int share = elements / Threads / chunk;
  static constexpr int depth = Way != vector_rows ? 1
                               : share < 1        ? 1
                               : share > chunk    ? chunk
                                                  : share;
  static constexpr int units = elements / (piece * depth);
  static constexpr int units_of_thread = (units + Threads - 1) / Threads;
  // Units along the axis that neighbouring threads share.
  static constexpr int units_aside = Way == async_rows || Way == vector_rows ? Rows / piece
                                     : Way == single_rows                    ? Rows
                                                                             : TileK / piece;

  // Where units lie: addresses, or (in parts) bytes from a place that all threads
  // share, which moves on with the tiles, to one that no thread's is before.
  using Offset = conditional<sizeof(Index) == 4, uint32, uint64>;
  // Where units of a thread are so many terms of the same rows apart, the first one's is enough.
  static constexpr bool in_step = Way == async_rows && Threads >= units_aside;
  // Of rows of narrow pieces a thread has so many that there are no registers for their addresses:
  // it keeps the first one's, and goes on from there by rows, of which so many are left.
  static constexpr bool by_rows =
      Way == async_terms && piece < chunk && Threads >= units_aside && !addresses_have_parts;
  static constexpr int froms = in_step || by_rows ? 1 : units_of_thread;
  // A warpgroup's threads, with 128 sums each, have no registers to spare, nor time to move many
  // addresses on.
  static constexpr bool in_parts =
      addresses_have_parts || (InColumns && Way == async_terms && !by_rows && sizeof(Offset) == 4);
  conditional<in_parts, Offset, const char*> from[froms];
  static_assert(!(in_step && in_parts), "offsets of a unit before term 0 do not count");
  const char* shared_from;
  Index step, row_step, rows_left;  // steps: bytes between terms, and rows
  // If shifted, by how many bytes a unit's first chunk begins after a multiple of 4: a number of
  // its own, as a pointer from whose bits something is made is taken for one to any kind of memory.
  uint32 past_words[shifted ? units_of_thread : 1];
  Registers<shifted ? 5 : 4> waiting[asynchronous ? 1 : units_of_thread * depth];
  unsigned rank;
  Index rows, first_row, term, terms;  // the latter two for the checks of the simulator alone

  // `data`: of the operand, row and term 0. The first tile begins `missing` terms before term 0.
  NNK_FN void begin(unsigned thread, const void* data, Index first, Index row_count,
                    Index term_count, Index row_stride, Index term_stride, int missing) {
    rank = thread;
    step = term_stride, row_step = row_stride;
    first_row = first, rows = row_count, term = -missing, terms = term_count;
    rows_left = row_count - 1 - read_row(row_of(0));
    // 64 bits: an index need not hold the offsets of terms that are not read.
    shared_from = static_cast<const char*>(data) + int64(first) * row_stride;
    int64 least = 0;
    if constexpr (in_parts) {
      const Index last_row = row_count - first < Rows ? row_count - first - 1 : Rows - 1;
      const Index last_term = only_tile() ? term_count - 1 : TileK - 1;
      if (row_stride < 0) least += int64(last_row) * row_stride;
      if (term_stride < 0 && last_term > 0) least += int64(last_term) * term_stride;
      shared_from += least;
      if (!only_tile()) shared_from -= int64(missing) * term_stride;
    } else {
      shared_from -= int64(missing) * term_stride;
    }
    NNK_UNROLL
    for (int i = 0; i < froms; ++i) {
      const Index row = read_row(row_of(i));
      check_access(row, row_chunk, rows, NNK_HERE);
      const int64 of_row = int64(row - first) * row_stride;
      if constexpr (shifted)
        past_words[i] = uint32(reinterpret_cast<uint64>(data)) + uint32(row) * uint32(row_stride) +
                        uint32(term_of(i) - missing) * uint32(term_stride);
      if constexpr (in_parts)
        from[i] = Offset(of_row - least + int64(first_term(i, missing)) * term_stride);
      else from[i] = shared_from + of_row + int64(term_of(i)) * term_stride;
    }
  }

  // The next tile, if it is wanted; if Partial, the first one: `missing` terms of zeros come
  // before.
  template <bool Partial>
  NNK_FN void copy(const Shared<T>& memory, int first, int missing, bool wanted = true,
                   Site site = NNK_HERE) {
    static_assert(asynchronous, "other tiles are loaded and stored");
    if constexpr (by_rows) row_step = opaque(row_step), rows_left = opaque(rows_left);
    NNK_UNROLL
    for (int i = 0; i < units_of_thread; ++i) {
      const int to = first + place(i);
      const T* source = reinterpret_cast<const T*>(address<Partial>(i, 0, missing));
      if constexpr (Partial) {
        if (is_there(i)) copy_async<piece>(memory, to, source, term_of(i) >= missing, site);
      } else {  // a condition of the copy, and no branch in the loop
        const bool copied = wanted && is_there(i);
        if (copied) check(i, site);
        copy_async_if<piece>(copied, memory, to, source, site);
      }
    }
    advance();
  }

  // The same to registers, for store().
  template <bool Partial> NNK_FN void load(int missing, Site site = NNK_HERE) {
    static_assert(!asynchronous, "other tiles are copied");
    // The places of so many stores are made as they are needed.
    if constexpr (shifted && Way == vector_rows) rank = opaque(rank);
    NNK_UNROLL
    for (int i = 0; i < units_of_thread; ++i) {
      if (!is_there(i)) continue;
      if (!Partial) check(i, site);
      NNK_UNROLL
      for (int d = 0; d < depth; ++d) {
        if constexpr (shifted) waiting[i * depth + d] = fetch_words<Partial>(i, d, missing);
        else waiting[i * depth + d] = bit_cast<Registers<4>>(fetch<Partial>(i, d, missing));
      }
    }
    advance();
  }
  // Partial, missing: of the load
  template <bool Partial>
  NNK_FN void store(const Shared<T>& memory, int first, int missing, Site site = NNK_HERE) const {
    NNK_UNROLL
    for (int i = 0; i < units_of_thread; ++i) {
      if (!is_there(i)) continue;
      if constexpr (Way == vector_rows) {
        Vec<T, chunk> loaded[depth];
        NNK_UNROLL
        for (int d = 0; d < depth; ++d) loaded[d] = fetched<Partial>(i, d, missing);
        NNK_UNROLL
        for (int r = 0; r < chunk; ++r) {
          Vec<T, depth> along;
          NNK_UNROLL
          for (int d = 0; d < depth; ++d) along.set(d, loaded[d][r]);
          memory.template store_vec<depth>(first + place(i, r), along, site);
        }
      } else {
        memory.template store_vec<chunk>(first + place(i), fetched<Partial>(i, 0, missing), site);
      }
    }
  }

  // Where in the tile unit i begins, or row r of one that is transposed.
  NNK_FN int place(int i, int r = 0) const {
    if constexpr (in_one_pattern) return place_of(0, 0) + i * (Threads / units_aside) * column_line;
    else return place_of(i, r);
  }

 protected:
  // Whether units of a thread lie a multiple of 8 lines apart: a number of the machine code, which
  // compilers do not find, as they make bits of sums.
  static constexpr bool in_one_pattern =
      InColumns && asynchronous && Threads % (8 * units_aside) == 0;
  NNK_FN int place_of(int i, int r) const {
    if constexpr (turned) return slot(term_of(i), row_of(i) / chunk) + row_of(i) % chunk;
    else return slot(row_of(i) + r, term_of(i) / chunk) + term_of(i) % chunk;
  }

  NNK_FN bool is_there(int i) const {
    return units % Threads == 0 || int(rank) + i * Threads < units;
  }

  // Where unit i of the thread lies: along the axis that neighbouring threads share, and across.
  NNK_FN int aside(int i) const {
    if constexpr (Threads >= units_aside) return int(rank % units_aside);
    else return int(rank) + i % (units_aside / Threads) * Threads;
  }
  NNK_FN int across(int i) const {
    constexpr int step = Threads / units_aside;
    if constexpr (step > 0) return int(rank / units_aside) + i * step;
    else return i / (units_aside / Threads);
  }
  // Rows that are there or not together.
  static constexpr int row_chunk =
      (Way == async_rows || Way == vector_rows) && !unaligned ? piece : 1;
  static constexpr bool shares_rows =
      units_aside * (Way == single_rows ? 1 : piece) == Rows &&
      (Way == async_rows || Way == vector_rows || Way == single_rows);
  NNK_FN int row_of(int i) const {
    if constexpr (Way == single_rows) return aside(i);
    else if constexpr (shares_rows) return aside(i) * piece;
    else return across(i);
  }
  NNK_FN int term_of(int i) const {
    if constexpr (Way == async_rows) return across(i);
    else if constexpr (Way == vector_rows) return across(i) * depth;
    else if constexpr (Way == single_rows) return across(i) * chunk;
    else return aside(i) * piece;
  }
  // Which row is read for one of the tile. Those past the last one read others again, and not all
  // the same one, which many processors would ask one part of the level-2 cache for. What is made
  // of them is not written.
  NNK_FN Index read_row(int row) const {
    const Index last = rows - row_chunk;
    return first_row + row <= last ? first_row + row : first_row + (row & repeated_rows());
  }
  // One less than the largest power of two of rows, at most as many as the tile has.
  NNK_FN int repeated_rows() const {
    const Index left = rows - first_row;
    unsigned bits = unsigned(left < Rows ? left : Rows);
    NNK_UNROLL
    for (int shift = 1; shift < 16; shift *= 2) bits |= bits >> shift;
    return int(bits >> 1);
  }

  // Terms that are missing in the only tile may lie farther away than an offset holds. There,
  // offsets count from term 0, and a unit that begins before it has that one's.
  NNK_FN bool only_tile() const { return terms < TileK; }
  NNK_FN int too_early(int i, int missing) const {
    return only_tile() && term_of(i) < missing ? missing - term_of(i) : 0;
  }
  NNK_FN int first_term(int i, int missing) const {
    return term_of(i) + too_early(i, missing) - (only_tile() ? missing : 0);
  }
  // Of a term of a unit.
  template <bool Partial = false>
  NNK_FN const char* address(int i, int more_terms = 0, int missing = 0) const {
    if constexpr (Partial && in_parts) more_terms -= too_early(i, missing);
    if constexpr (in_step) more_terms += i * (Threads / units_aside);
    int64 more = int64(more_terms) * step;
    if constexpr (by_rows) {
      const Index more_rows = i * (Threads / units_aside);
      more = int64(more_rows < rows_left ? more_rows : rows_left) * row_step;
    }
    if constexpr (in_parts) return shared_from + more + from[froms == 1 ? 0 : i];
    else return from[froms == 1 ? 0 : i] + more;
  }

  // A chunk from term `first` of a unit on. If Partial, its first `missing` elements (all of them,
  // where they are adjacent rows) are zeros.
  template <bool Partial> NNK_FN Vec<T, chunk> fetch(int unit, int first, int missing) const {
    const int zeros = Partial ? missing - term_of(unit) - first : 0;
    if constexpr (Way == single_terms || Way == single_rows || (Partial && unaligned)) {
      Vec<T, chunk> x;
      NNK_UNROLL
      for (int i = 0; i < chunk; ++i) {
        x.set(i, T());
        if (i >= zeros)
          x.set(i, *reinterpret_cast<const T*>(address<Partial>(unit, first + i, missing)));
      }
      return x;
    } else {
      if (zeros > 0) return Vec<T, chunk>::splat(T());
      const char* source = address<Partial>(unit, first, missing);
      if constexpr (unaligned) return load_unaligned<chunk, T>(source);
      else return nnk::load<chunk>(reinterpret_cast<const T*>(source));
    }
  }
  // The words of such a chunk, and what it is.
  template <bool Partial> NNK_FN Registers<5> fetch_words(int unit, int first, int missing) const {
    constexpr bool rows_aside = Way == vector_rows;
    constexpr int size = int(sizeof(T));
    const int zeros = Partial ? missing - term_of(unit) - first : 0;
    if (Partial && zeros >= (rows_aside ? 1 : chunk)) return {};
    const char* source = address<Partial>(unit, first, missing);
    const Index left = rows - read_row(row_of(unit));
    return load_words < !Partial || rows_aside,
           !rows_aside > (source, past_word(unit, first), Partial && zeros > 0 ? zeros * size : 0,
                          left < chunk ? int(left) * size - 1 : 15);
  }
  NNK_FN int past_word(int unit, int more_terms) const {
    return int((past_words[unit] + uint32(more_terms) * uint32(step)) & 3);
  }
  template <bool Partial> NNK_FN Vec<T, chunk> fetched(int unit, int more, int missing) const {
    if constexpr (!shifted) {
      return bit_cast<Vec<T, chunk>>(waiting[unit * depth + more]);
    } else {
      auto x = bit_cast<Vec<T, chunk>>(
          shifted_words(waiting[unit * depth + more], past_word(unit, more)));
      if constexpr (Partial && Way == vector_terms) {
        NNK_UNROLL
        for (int e = 0; e < chunk; ++e)
          if (term_of(unit) + e < missing) x.set(e, T());
      }
      return x;
    }
  }
  // A tile on. Where terms are adjacent that is a number of the machine code, in later ones too.
  NNK_FN void advance() {
    constexpr bool adjacent = Way == async_terms || Way == vector_terms;
    const int64 next = int64(TileK) * (adjacent ? int64(sizeof(T)) : int64(step));
    if constexpr (in_parts) {
      shared_from += next;
    } else {
      NNK_UNROLL
      for (int i = 0; i < froms; ++i) from[i] += next;
    }
    term += TileK;
  }
  NNK_FN void check(int i, Site site) const {
    check_access(term + term_of(i), turned ? 1 : Way == vector_rows ? depth : piece, terms, site);
  }
};

}  // namespace nnk
