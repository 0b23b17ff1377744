// Brief: a float of which a result keeps 11 bits or 8, because it is rounded to half or bfloat16.
//
// Functors are templates of their computing type, so that with this one they are what they are with
// float, but for three things that a GPU has an instruction for (or nearly): powers of two,
// reciprocals and quotients. Those are good to 22 bits, about 1e-6, of which a rounding to 11 bits
// shows nothing. In float they are as exact as they can be, and a quotient costs ten instructions
// and a branch: gelu of half, at 55 instructions an element, took one and a half times as long on
// an H100 as it takes to read and write.
//
// Of a platform: brief_exp2, brief_reciprocal (0 for what is larger than 2^126, as the result is
// subnormal) and brief_quotient (right for every divisor).
#pragma once
#include "nnk/types.cuh"

namespace nnk {

struct Brief {
  float value;
  Brief() = default;
  template <class T> explicit constexpr NNK_FN Brief(T x) : value(float(x)) {}
  explicit constexpr NNK_FN operator float() const { return value; }
};

NNK_FN Brief operator+(Brief a, Brief b) { return Brief(a.value + b.value); }
NNK_FN Brief operator-(Brief a, Brief b) { return Brief(a.value - b.value); }
NNK_FN Brief operator*(Brief a, Brief b) { return Brief(a.value * b.value); }
NNK_FN Brief operator/(Brief a, Brief b) { return Brief(brief_quotient(a.value, b.value)); }
NNK_FN Brief operator-(Brief a) { return Brief(-a.value); }

#define NNK_BRIEF_COMPARE(op) \
  NNK_FN bool operator op(Brief a, Brief b) { return a.value op b.value; }
NNK_BRIEF_COMPARE(<)
NNK_BRIEF_COMPARE(>)
NNK_BRIEF_COMPARE(<=)
NNK_BRIEF_COMPARE(>=)
NNK_BRIEF_COMPARE(==)
NNK_BRIEF_COMPARE(!=)
#undef NNK_BRIEF_COMPARE

NNK_FN Brief max(Brief a, Brief b) { return Brief(nnk::max(a.value, b.value)); }
NNK_FN Brief min(Brief a, Brief b) { return Brief(nnk::min(a.value, b.value)); }
NNK_FN Brief fma(Brief a, Brief b, Brief c) { return Brief(nnk::fma(a.value, b.value, c.value)); }
NNK_FN Brief copysign(Brief a, Brief sign) { return Brief(nnk::copysign(a.value, sign.value)); }
NNK_FN Brief reciprocal(Brief x) { return Brief(brief_reciprocal(x.value)); }
NNK_FN Brief exp2(Brief x) { return Brief(brief_exp2(x.value)); }
NNK_FN Brief exp(Brief x) { return Brief(brief_exp2(x.value * 1.44269504088896340736f)); }

#define NNK_BRIEF_FUNCTION(name) \
  NNK_FN Brief name(Brief x) { return Brief(nnk::name(x.value)); }
NNK_BRIEF_FUNCTION(abs)
NNK_BRIEF_FUNCTION(expm1)
NNK_BRIEF_FUNCTION(log)
NNK_BRIEF_FUNCTION(log1p)
NNK_BRIEF_FUNCTION(log2)
NNK_BRIEF_FUNCTION(tanh)
NNK_BRIEF_FUNCTION(erf)
NNK_BRIEF_FUNCTION(erfc)
NNK_BRIEF_FUNCTION(sqrt)
NNK_BRIEF_FUNCTION(rsqrt)
#undef NNK_BRIEF_FUNCTION

template <> struct Limits<Brief> {
  static NNK_FN Brief infinity() { return Brief(Limits<float>::infinity()); }
  static NNK_FN Brief lowest() { return Brief(Limits<float>::lowest()); }
};

}  // namespace nnk
