// The three products of a dense layer, written once over the vector width. Included by body-inl.h.

#pragma once

#include "kernels/functors.h"
#include "kernels/kernels.h"
#include "kernels/vector-inl.h"

namespace dlcore {
namespace {

// A register tile is kTileRows x 2 vectors of sums: as many as the registers hold beside one row
// of b and a broadcast. FMA latency 4 at 2 a cycle asks for 8 sums at least.
#if DLCORE_VECTOR_BYTES == 64
inline constexpr int kTileRows = 14;
#elif DLCORE_VECTOR_BYTES == 32
inline constexpr int kTileRows = 6;
#else
inline constexpr int kTileRows = 12;
#endif

template <class T>
inline constexpr Index kTileColumns = 2 * kLanes<T>;

// Depth of a block: a panel's rows beside a tile's rows of the other factor stay in the
// second-level cache while they are used again. Half of it costs 2 to 3 % of the peak where the
// depth is 784.
inline constexpr Index kDepth = 1024;
// Rows of the batch worked through before the weights are fetched again.
inline constexpr Index kBatchBlock = 256;
// Input gradients of at most kDotRows examples, summed over kDotDepth outputs or more, are dot
// products: fewer examples than lanes leave nothing else to fill a vector with. Those of at most
// kDotAlways examples are so for any number of outputs.
inline constexpr Index kDotRows = 8;
inline constexpr Index kDotDepth = 128;
inline constexpr Index kDotAlways = 4;
// More than half of kDotRows examples, twice over, fill the lanes where there are twice as many: of
// so many outputs they stay in the first-level cache.
inline constexpr Index kPairDepth = 512;
// Lanes that a tile of a weight gradient leaves empty, over all examples, so that turning it pays.
inline constexpr Index kTurnLanes = DLCORE_VECTOR_BYTES == 64 ? 192 : 384;
// Elements that the second-level cache may hold. What lies among more of them is asked for ahead,
// and only then: else 784x128 at batch 8 took 8.1 us instead of 7.5.
template <class T>
inline constexpr Index kNear = (Index{3} << 19) / static_cast<Index>(sizeof(T));

constexpr Index smaller(Index a, Index b) { return a < b ? a : b; }

template <int N>
struct Count {
  static constexpr int value = N;
};

/// How one element of a and one of b go into a sum: as numbers of T here, as pairs of bfloat16 in
/// avx512bf16.cpp, where everything else is the same with half the depth.
struct Single {
  static constexpr Index kTerms = 1;
  template <class T>
  static DLCORE_INLINE Vec<T> add(Vec<T> a, Vec<T> b, Vec<T> sum) {
    return fma(a, b, sum);
  }
};

/// Elements of a cache line.
template <class T>
inline constexpr Index kLine = 64 / static_cast<Index>(sizeof(T));

/// Asks for elements of an array, which may lie past its end. As all that asks, it must be inlined:
/// GCC takes a function that only prefetches for one without effects and drops its calls.
template <class T>
DLCORE_INLINE void prefetch(const T* array, Index begin, Index n) {
  for (Index i = begin; i < begin + n; i += kLine<T>) __builtin_prefetch(array + i);
}

/// Asks for one row, if there are so many.
DLCORE_INLINE void ask(const Wanted& wanted, Index i) {
  if (i < wanted.count) prefetch(wanted.base + wanted.rows[i] * wanted.stride, 0, wanted.bytes);
}

/// How the factor a lies in a tile: rows of summed elements or columns, of which each holds one
/// element of every sum; while those are multiplied the tile may ask ahead.
enum class Factor { rows, columns, columns_asking };

/// c = a b or c += a b over one tile, summed in order of depth. Element (r, d) of a lies at
/// r * lda + (d / run) * jump + d % run in rows, whose depth jumps every `run` in panels, and at
/// d * lda + r in columns.
template <class T>
struct Tile {
  const T* a;
  Index lda;
  const T* b;
  Index ldb;
  Index depth;
  bool add;
  T* c;
  Index ldc;
  // Of rows alone. While a run is multiplied, the rows so far from it are asked for, as panels are
  // too far apart to be foreseen.
  Index jump = 0, run = kDepth, asked = 0;
  // Of rows alone: each run asks for one row of this, from `first` on.
  const Wanted* wanted = nullptr;
  Index first = 0;
};

/// What is wanted after a tile, asked for while it is multiplied: `lines` cache lines of each of
/// three arrays, one a step of the depth, as more at a time keep the product's own loads waiting;
/// where the next tile has other columns of b, those `next` elements from its own; and where it has
/// other columns of a, the last of them, `beside` elements from this tile's first.
template <class T>
struct Ahead {
  const T* array[3];
  Index lines;
  Index next;
  Index beside;
};

template <class T>
DLCORE_INLINE void ask(const Ahead<T>& ahead, Index line) {
#pragma GCC unroll 3
  for (const T* array : ahead.array) {
    if (array != nullptr) __builtin_prefetch(array + line * kLine<T>);
  }
}

// noinline: the loops around a tile must not take registers from it.
template <class T, class M, int R, int V, Factor F>
__attribute__((noinline)) void tile_product(const Tile<T>& t, const Ahead<T>* ahead) {
  // Copied: for all that the compiler knows, the stores below could change the tile.
  T* const c = t.c;
  const Index ldc = t.ldc;
  Vec<T> sum[R][V];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) {
      sum[r][v] = t.add ? load(c + r * ldc + v * kLanes<T>) : Vec<T>{};
    }
  }
  constexpr bool kRows = F == Factor::rows;
  const Index a_row = kRows ? t.lda : 1, a_depth = kRows ? 1 : t.lda, ldb = t.ldb;
  const T* b = t.b;
  const T* a_run = t.a;
  Index wanted = t.first;
  for (Index left = t.depth, run = 0; left > 0; left -= run) {
    const T* a = a_run;
    run = kRows ? smaller(left, t.run) : left;
    if constexpr (kRows) {
      if (t.asked != 0) prefetch(a_run, t.asked, R * a_row);
      if (t.wanted != nullptr) ask(*t.wanted, wanted++);
    }
    for (Index d = 0; d < run; ++d) {
      if constexpr (F == Factor::columns_asking) {
        if (d < ahead->lines) ask(*ahead, d);
        if (ahead->next > 0) prefetch(b, ahead->next, kTileColumns<T>);
        if (ahead->beside > 0) __builtin_prefetch(a + ahead->beside);
      }
      Vec<T> row[V];
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) row[v] = load(b + v * kLanes<T>);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const Vec<T> s = splat(a[r * a_row]);
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) sum[r][v] = M::template add<T>(s, row[v], sum[r][v]);
      }
      a += a_depth;
      b += ldb;
    }
    a_run += t.jump;
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) store(c + r * ldc + v * kLanes<T>, sum[r][v]);
  }
}

template <class T>
using TileFunction = void (*)(const Tile<T>&, const Ahead<T>*);

/// The tiles of 1 to kTileRows rows, by number of rows and vectors.
template <class T, class M, Factor F>
struct Tiles {
  template <int R>
  constexpr void fill() {
    of[R][0] = tile_product<T, M, R, 1, F>;
    of[R][1] = tile_product<T, M, R, 2, F>;
    if constexpr (R > 1) fill<R - 1>();
  }
  constexpr Tiles() { fill<kTileRows>(); }
  TileFunction<T> of[kTileRows + 1][2] = {};
};
template <class T, class M, Factor F>
inline constexpr Tiles<T, M, F> kTiles;

/// c = a b over a tile of this many rows and at most kTileColumns columns, which are rounded up to
/// whole vectors.
template <class T, class M, Factor F>
DLCORE_INLINE void multiply(Index rows, Index columns, const Tile<T>& tile,
                            const Ahead<T>* ahead = nullptr) {
  kTiles<T, M, F>.of[rows][columns > kLanes<T>](tile, ahead);
}

/// Rows 0..rows in tiles of nearly equal height: 32 rows are 11 + 11 + 10 and not 14 + 14 + 4.
struct RowSplit {
  explicit RowSplit(Index rows)
      : count((rows + kTileRows - 1) / kTileRows),
        height(count == 0 ? 0 : rows / count),
        taller(count == 0 ? 0 : rows % count) {}
  Index begin(Index i) const { return i * height + smaller(i, taller); }
  Index count, height, taller;
};

/// y = activation(y + more + b), z its argument, on rows x columns; columns up to whole vectors.
/// more, which lies like y, and b may be null.
template <class T, Activation A>
void finish_tile(const T* more, T* y, T* z, Index ldy, const T* b, T alpha, Index rows,
                 Index columns) {
  const Vec<T> slope = splat(alpha);
  for (Index r = 0; r < rows; ++r) {
    for (Index j = 0; j < columns; j += kLanes<T>) {
      Vec<T> value = load(y + r * ldy + j);
      if (more != nullptr) value += load(more + r * ldy + j);
      if (b != nullptr) value += load(b + j);
      if (z != nullptr) store(z + r * ldy + j, value);
      store(y + r * ldy + j, activate<A, T>(value, slope));
    }
  }
}

template <class T>
using FinishFunction = void (*)(const T* more, T* y, T* z, Index ldy, const T* b, T alpha,
                                Index rows, Index columns);

template <class T>
FinishFunction<T> finish_of(Activation activation) {
  switch (activation) {
    case Activation::identity: return finish_tile<T, Activation::identity>;
    case Activation::relu: return finish_tile<T, Activation::relu>;
    case Activation::leaky_relu: return finish_tile<T, Activation::leaky_relu>;
    case Activation::sigmoid: return finish_tile<T, Activation::sigmoid>;
    case Activation::tanh: return finish_tile<T, Activation::tanh>;
    case Activation::gelu: return finish_tile<T, Activation::gelu>;
    case Activation::gelu_tanh: return finish_tile<T, Activation::gelu_tanh>;
    case Activation::silu: return finish_tile<T, Activation::silu>;
    case Activation::softplus: return finish_tile<T, Activation::softplus>;
  }
  return nullptr;
}

template <class T, class M>
void dense_forward(const T* x, Index ldx, const T* w, Index panel_stride, const T* b,
                   Activation activation, T alpha, T* z, T* y, Index ldy, Index m, Index n, Index k,
                   const Wanted* wanted) {
  const FinishFunction<T> finish = finish_of<T>(activation);
  const bool plain = activation == Activation::identity && b == nullptr && z == nullptr;
  for (Index i0 = 0; i0 < m; i0 += kBatchBlock) {
    const RowSplit rows(smaller(kBatchBlock, m - i0));
    // At least once, so that k = 0 gives the bias.
    for (Index k0 = 0; k0 == 0 || k0 < k; k0 += kDepth) {
      const Index depth = smaller(kDepth, k - k0);
      const bool last = k0 + kDepth >= k;
      for (Index j = 0; j < n; j += kTileColumns<T>) {
        const Index columns = smaller(kTileColumns<T>, n - j);
        const T* panel = w + (j / kPanel<T>)*panel_stride + j % kPanel<T>;
        for (Index r = 0; r < rows.count; ++r) {
          const Index i = i0 + rows.begin(r), height = i0 + rows.begin(r + 1) - i;
          T* c = y + i * ldy + j;
          Tile<T> tile{
              x + i * ldx + k0, ldx, panel + k0 * kPanel<T>, kPanel<T>, depth, k0 > 0, c, ldy};
          if (wanted != nullptr && j == 0 && k0 == 0) {
            // As many runs as rows.
            tile.run = tile.jump = (depth + height - 1) / height;
            tile.wanted = wanted;
            tile.first = i;
          }
          multiply<T, M, Factor::rows>(height, columns, tile);
          if (last && !plain) {
            finish(nullptr, c, z == nullptr ? nullptr : z + i * ldy + j, ldy,
                   b == nullptr ? b : b + j, alpha, height, columns);
          }
        }
      }
    }
  }
}

template <class T>
void dense_finish(const T* more, const T* b, Activation activation, T alpha, T* z, T* y, Index ldy,
                  Index m, Index n) {
  finish_of<T>(activation)(more, y, z, ldy, b, alpha, m, n);
}

/// Sums of R rows of the weights times C rows of dy, lane by lane, and then over the lanes.
template <class T, class M, int R, int C>
DLCORE_INLINE void dot_tile(const T* w, Index panel_stride, const T* dy, Index ldy, Index n,
                            bool add, T* dx, Index ldx) {
  constexpr Index kRow = kPanel<T> / M::kTerms;
  Vec<T> sum[C][R] = {};
  for (Index j = 0; j < n; j += kRow) {
    // No vectors of padding: of 10 outputs the second is zeros.
    for (Index v = 0; v < smaller(kRow, n - j); v += kLanes<T>) {
      Vec<T> d[C];
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) d[c] = load(dy + c * ldy + j + v);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const Vec<T> row = load(w + r * kRow + v);
#pragma GCC unroll 4
        for (int c = 0; c < C; ++c) sum[c][r] = M::template add<T>(row, d[c], sum[c][r]);
      }
    }
    w += panel_stride;
  }
#pragma GCC unroll 4
  for (int c = 0; c < C; ++c) {
    Vec<T> total = sums_of_lanes<T, R>(sum[c]);
    T* y = dx + c * ldx;
    if (add) total += load_partial(y, R, T{0});
    store_partial(y, total, R);
  }
}

/// C examples at k inputs: R of these at a time, the rest in ever smaller tiles.
template <class T, class M, int R, int C>
__attribute__((noinline)) void dot_tiles(const T* dy, Index ldy, const T* w, Index panel_stride,
                                         bool add, T* dx, Index ldx, Index n, Index k) {
  Index i = 0;
  for (; i + R <= k; i += R) {
    dot_tile<T, M, R, C>(w + i * (kPanel<T> / M::kTerms), panel_stride, dy, ldy, n, add, dx + i,
                         ldx);
  }
  if constexpr (R > 1) {
    if (i < k) {
      dot_tiles<T, M, R / 2, C>(dy, ldy, w + i * (kPanel<T> / M::kTerms), panel_stride, add, dx + i,
                                ldx, n, k - i);
    }
  }
}

/// dx for few examples, each element a dot product of a row of the weights and one of dy.
template <class T, class M>
void input_gradient_by_dots(const T* dy, Index ldy, const T* w, Index panel_stride, bool add, T* dx,
                            Index ldx, Index m, Index n, Index k) {
  constexpr int kSums = DLCORE_VECTOR_BYTES == 32 ? 8 : 16;
  Index r = 0;
  const auto tiles = [&](auto examples) {
    constexpr int kCount = decltype(examples)::value;
    constexpr int kRows = kSums / kCount < kLanes<T> ? kSums / kCount : kLanes<T>;
    for (; r + kCount <= m; r += kCount) {
      dot_tiles<T, M, kRows, kCount>(dy + r * ldy, ldy, w, panel_stride, add, dx + r * ldx, ldx, n,
                                     k);
    }
  };
  tiles(Count<4>{});
  tiles(Count<2>{});
  tiles(Count<1>{});
}

/// Lanes 2 e and 2 e + 1 of row j of `pairs` are outputs 2 j and 2 j + 1 of example e.
template <class T>
void pack_pairs(const T* dy, Index ldy, Index m, Index depth, T* pairs) {
  const auto row = [&](Index e) { return dy + (e < m ? e : m - 1) * ldy; };
  constexpr Index kSide = kLanes<T>;
  alignas(64) T block[kDotRows * kSide];
  for (Index j = 0; j < depth; j += kSide) {
    const Index columns = smaller(kSide, depth - j);
    for (Index e = 0; e < kDotRows; ++e) {
      store(block + e * kSide, load_partial(row(e) + j, columns, T{0}));
    }
    transpose_block(reinterpret_cast<const double*>(block), kSide / 2,
                    reinterpret_cast<double*>(pairs + j * kDotRows), kDotRows);
  }
}

/// One vector of inputs at kDotRows examples, of which m are wanted.
template <class T, class M>
__attribute__((noinline)) void pair_tile(const T* w, Index panel_stride, bool far, const T* pairs,
                                         Index depth, bool add, T* dx, Index ldx, Index m) {
  constexpr Index kRow = kPanel<T> / M::kTerms, kSide = kLanes<T>;
  Vec<T> sum[kSide] = {};
  for (Index left = depth; left > 0; left -= kRow) {
    for (Index d = 0; d < smaller(kRow, left); d += 2) {
      if (far) prefetch(w + panel_stride + d * kSide, 0, 2 * kSide);
      const Vec<T> row = load(pairs);
#pragma GCC unroll 16
      for (Index r = 0; r < kSide; ++r) {
        sum[r] = M::template add<T>(splat_pair(w + r * kRow + d), row, sum[r]);
      }
      pairs += kSide;
    }
    w += panel_stride;
  }
  Vec<T> total[kDotRows];
  add_and_turn_pairs<T>(sum, total);
#pragma GCC unroll 8
  for (Index e = 0; e < kDotRows; ++e) {
    if (e == m) break;
    T* to = dx + e * ldx;
    store(to, add ? total[e] + load(to) : total[e]);
  }
}

/// dx for a few more examples than fill half a vector: lanes hold each of them twice and sum the
/// even and the odd outputs, a broadcast takes two weights, and the two sums are added.
template <class T, class M>
void input_gradient_by_pairs(const T* dy, Index ldy, const T* w, Index panel_stride, bool add,
                             T* dx, Index ldx, Index m, Index n, Index k) {
  constexpr Index kRow = kPanel<T> / M::kTerms, kSide = kLanes<T>;
  alignas(64) T pairs[kPairDepth * kDotRows];
  const bool far = (n + kRow - 1) / kRow * panel_stride > kNear<T>;
  const Index whole = k / kSide * kSide;
  for (Index n0 = 0; n0 < n; n0 += kPairDepth) {
    const Index depth = smaller(kPairDepth, n - n0);
    pack_pairs(dy + n0, ldy, m, depth, pairs);
    for (Index i = 0; i < whole; i += kSide) {
      pair_tile<T, M>(w + n0 / kRow * panel_stride + i * kRow, panel_stride, far, pairs, depth,
                      add || n0 > 0, dx + i, ldx, m);
    }
  }
  input_gradient_by_dots<T, M>(dy, ldy, w + whole * kRow, panel_stride, add, dx + whole, ldx, m, n,
                               k - whole);
}

/// packed[j,i] = w[i,j] for outputs n0 .. n0 + depth and `rows` <= kPanel inputs from w on; the
/// rest of each packed row is zero.
template <class T, class M>
void pack_transposed(const T* w, Index panel_stride, Index depth, Index rows, T* packed) {
  constexpr Index kRow = kPanel<T> / M::kTerms, kSide = kLanes<T>;
  for (Index j = 0; j < depth; j += kRow) {
    const T* block = w + j / kRow * panel_stride;
    // Columns past the last are zeros of the weights' padding and are not used.
    const Index whole = rows / kSide * kSide;
    for (Index i = 0; i < whole; i += kSide) {
      for (Index c = 0; c < kRow; c += kSide) {
        transpose_block(block + i * kRow + c, kRow, packed + (j + c) * kPanel<T> + i, kPanel<T>);
      }
    }
    for (Index c = 0; whole < kPanel<T> && c < kRow; ++c) {
      T* row = packed + (j + c) * kPanel<T>;
      for (Index i = whole; i < kPanel<T>; ++i) row[i] = i < rows ? block[i * kRow + c] : T{0};
    }
  }
}

template <class T, class M>
void dense_input_gradient(const T* dy, Index ldy, const T* w, Index panel_stride, bool add, T* dx,
                          Index ldx, Index m, Index n, Index k) {
  constexpr Index kRow = kPanel<T> / M::kTerms;
  if constexpr (kLanes<T> == 2 * kDotRows) {
    if (2 * m > kDotRows && m <= kDotRows && n >= kRow) {
      return input_gradient_by_pairs<T, M>(dy, ldy, w, panel_stride, add, dx, ldx, m, n, k);
    }
  }
  if (m <= kDotAlways || (m <= kDotRows && n >= kDotDepth / M::kTerms)) {
    return input_gradient_by_dots<T, M>(dy, ldy, w, panel_stride, add, dx, ldx, m, n, k);
  }
  // Panels of the transposed weights, made where they are used, in the second-level cache.
  alignas(64) T packed[kDepth * kPanel<T>];
  for (Index i = 0; i < k; i += kPanel<T>) {
    const Index columns = smaller(kPanel<T>, k - i);
    for (Index n0 = 0; n0 < n; n0 += kDepth) {
      const Index depth = smaller(kDepth, n - n0);
      pack_transposed<T, M>(w + n0 / kRow * panel_stride + i * kRow, panel_stride, depth, columns,
                            packed);
      const RowSplit rows(m);
      for (Index r = 0; r < rows.count; ++r) {
        const Index begin = rows.begin(r), height = rows.begin(r + 1) - begin;
        for (Index c = 0; c < columns; c += kTileColumns<T>) {
          multiply<T, M, Factor::rows>(height, columns - c,
                                       {dy + begin * ldy + n0, ldy, packed + c, kPanel<T>, depth,
                                        add || n0 > 0, dx + begin * ldx + i + c, ldx});
        }
      }
    }
  }
}

template <class T, class M>
void dense_input_gradient_transposed(const T* dyt, Index ldt, const T* w, Index panel_stride,
                                     T* dxt, Index ldxt, Index m, Index n, Index k) {
  // Elements of a row of a panel, which the product takes as its depth.
  constexpr Index kRow = kPanel<T> / M::kTerms;
  const RowSplit rows(k);
  for (Index j0 = 0; j0 < m; j0 += kBatchBlock) {
    const Index j1 = smaller(m, j0 + kBatchBlock);
    for (Index n0 = 0; n0 < n; n0 += kDepth) {
      const Index depth = smaller(kDepth, n - n0);
      const T* block = w + n0 / kRow * panel_stride;
      for (Index r = 0; r < rows.count; ++r) {
        const Index i = rows.begin(r), height = rows.begin(r + 1) - i;
        for (Index j = j0; j < j1; j += kTileColumns<T>) {
          multiply<T, M, Factor::rows>(
              height, j1 - j,
              {block + i * kRow, kRow, dyt + n0 * ldt + j, ldt, depth, n0 > 0, dxt + i * ldxt + j,
               ldxt, panel_stride, kRow, height * kRow});
        }
      }
    }
  }
}

/// Whether m rows of both factors of a weight gradient are more than the second-level cache holds.
template <class T>
bool lies_far(Index m, Index ldx, Index ldy) {
  return m * (ldx + ldy) > kNear<T>;
}

/// Whether a tile of the weight gradient has its inputs along the vectors and is turned when it is
/// summed, because its outputs would leave lanes empty.
template <class T>
bool turns(Index m, Index columns) {
  const Index vectors = (columns + kLanes<T> - 1) / kLanes<T>;
  return m * (vectors * kLanes<T> - columns) >= kTurnLanes;
}

/// c[k][kPanel] = x^T dy for k = kLanes or kTileColumns inputs and n <= kTileColumns outputs.
template <class T, class M>
void turned_product(const T* x, Index ldx, const T* dy, Index ldy, bool add, T* c, Index m, Index n,
                    Index k, bool far) {
  constexpr Index kSide = kLanes<T>, kRow = kTileColumns<T>;
  // All of it zero, though the padding of c alone must be: that alone took longer than the product
  // of 32 examples.
  alignas(64) T turned[kRow * kRow] = {};
  if (add) {
    for (Index i = 0; i < k; i += kSide) {
      for (Index j = 0; j < n; j += kSide) {
        transpose_block(c + i * kPanel<T> + j, kPanel<T>, turned + j * kRow + i, kRow);
      }
    }
  }
  const RowSplit rows(n);
  for (Index r = 0; r < rows.count; ++r) {
    const Index j = rows.begin(r), height = rows.begin(r + 1) - j;
    const Tile<T> tile{dy + j, ldy, x, ldx, m, add, turned + j * kRow, kRow};
    if (far) {
      const Ahead<T> asked{{}, 0, kTileColumns<T>, 0};
      multiply<T, M, Factor::columns_asking>(height, k, tile, &asked);
    } else {
      multiply<T, M, Factor::columns>(height, k, tile);
    }
  }
  for (Index i = 0; i < k; i += kSide) {
    for (Index j = 0; j < n; j += kSide) {
      transpose_block(turned + j * kRow + i, kRow, c + i * kPanel<T> + j, kPanel<T>);
    }
  }
}

/// Calls tile(begin, inputs) for what turned_product takes of k inputs and returns how many it was:
/// all but less than a vector, as nothing past x may be read.
template <class T, class F>
DLCORE_INLINE Index for_turned(Index k, F tile) {
  Index i = 0;
  for (Index inputs; k - i >= kLanes<T>; i += inputs) {
    inputs = k - i >= kTileColumns<T> ? kTileColumns<T> : kLanes<T>;
    tile(i, inputs);
  }
  return i;
}

template <class T, class M>
void dense_weight_gradient(const T* x, Index ldx, const T* dy, Index ldy, bool add, T* dw,
                           Index panel_stride, Index m, Index n, Index k) {
  const bool far = lies_far<T>(m, ldx, ldy);
  for (Index j = 0; j < n; j += kTileColumns<T>) {
    const Index columns = smaller(kTileColumns<T>, n - j);
    T* panel = dw + (j / kPanel<T>)*panel_stride + j % kPanel<T>;
    Index turned = 0;
    if (turns<T>(m, columns)) {
      turned = for_turned<T>(k, [&](Index i, Index inputs) {
        turned_product<T, M>(x + i, ldx, dy + j, ldy, add, panel + i * kPanel<T>, m, columns,
                             inputs, far);
      });
    }
    const RowSplit rows(k - turned);
    for (Index r = 0; r < rows.count; ++r) {
      const Index i = turned + rows.begin(r), height = turned + rows.begin(r + 1) - i;
      T* c = panel + i * kPanel<T>;
      const Tile<T> tile{x + i, ldx, dy + j, ldy, m, add, c, kPanel<T>};
      if (far) {
        const Ahead<T> asked{{c + height * kPanel<T>},
                             add ? height * kPanel<T> / kLine<T> : 0,
                             r + 1 == rows.count ? kTileColumns<T> : 0,
                             2 * height - 1};
        multiply<T, M, Factor::columns_asking>(height, columns, tile, &asked);
      } else {
        multiply<T, M, Factor::columns>(height, columns, tile);
      }
    }
  }
}

template <class T, class F>
DLCORE_INLINE void update_map(T* w, const T* dw, T* state1, T* state2, Index n, F f) {
  // A null state is not touched: f leaves it alone and the loads below are of w.
  const bool first = state1 != nullptr, second = state2 != nullptr;
  Index i = 0;
  for (; i + kLanes<T> <= n; i += kLanes<T>) {
    Vec<T> p = load(w + i), s = {}, q = {};
    if (first) s = load(state1 + i);
    if (second) q = load(state2 + i);
    f(p, load(dw + i), s, q);
    store(w + i, p);
    if (first) store(state1 + i, s);
    if (second) store(state2 + i, q);
  }
  if (i < n) {
    const Index count = n - i;
    Vec<T> p = load_partial(w + i, count, T{0}), s = {}, q = {};
    if (first) s = load_partial(state1 + i, count, T{0});
    if (second) q = load_partial(state2 + i, count, T{0});
    f(p, load_partial(dw + i, count, T{0}), s, q);
    store_partial(w + i, p, count);
    if (first) store_partial(state1 + i, s, count);
    if (second) store_partial(state2 + i, q, count);
  }
}

template <class T>
void update_elements(const Update<T>& u, T* w, const T* dw, T* state1, T* state2, Index n) {
  switch (u.rule) {
    case Rule::sgd:
      if (state1 == nullptr) {
        return update_map(w, dw, state1, static_cast<T*>(nullptr), n,
                          [&](Vec<T>& p, Vec<T> g, Vec<T>&, Vec<T>&) { update_sgd(u, p, g); });
      }
      return update_map(
          w, dw, state1, static_cast<T*>(nullptr), n,
          [&](Vec<T>& p, Vec<T> g, Vec<T>& s, Vec<T>&) { update_momentum(u, p, g, s); });
    case Rule::adam:
      return update_map(w, dw, state1, state2, n, [&](Vec<T>& p, Vec<T> g, Vec<T>& s, Vec<T>& q) {
        update_adam<false>(u, p, g, s, q);
      });
    case Rule::adamw:
      return update_map(w, dw, state1, state2, n, [&](Vec<T>& p, Vec<T> g, Vec<T>& s, Vec<T>& q) {
        update_adam<true>(u, p, g, s, q);
      });
  }
}

template <class T, class M>
void dense_weight_update(const T* x, Index ldx, const T* dy, Index ldy, const Update<T>& update,
                         T* w, T* state1, T* state2, Index panel_stride, bool ahead, Index m,
                         Index n, Index k) {
  constexpr Index kTallest = kTileColumns<T> > kTileRows ? kTileColumns<T> : kTileRows;
  const bool far = lies_far<T>(m, ldx, ldy);
  // Whole rows of a panel, so that the weights of a tile and its state lie in one run.
  alignas(64) T gradient[kTallest * kPanel<T>];
  const auto of = [](T* state, Index at) { return state == nullptr ? state : state + at; };
  for (Index j = 0; j < n; j += kPanel<T>) {
    const Index columns = smaller(kPanel<T>, n - j);
    if (columns < kPanel<T>) __builtin_memset(gradient, 0, sizeof(gradient));
    const auto update_rows = [&](Index at, Index count) {
      update_elements(update, w + at, gradient, of(state1, at), of(state2, at), count * kPanel<T>);
    };
    const Index panel = j / kPanel<T> * panel_stride;
    Index turned = 0;
    if (turns<T>(m, columns)) {
      turned = for_turned<T>(k, [&](Index i, Index inputs) {
        for (Index c = 0; c < columns; c += kTileColumns<T>) {
          turned_product<T, M>(x + i, ldx, dy + j + c, ldy, false, gradient + c, m,
                               smaller(kTileColumns<T>, columns - c), inputs, far);
        }
        update_rows(panel + i * kPanel<T>, inputs);
      });
    }
    const RowSplit rows(k - turned);
    for (Index r = 0; r < rows.count; ++r) {
      const Index i = turned + rows.begin(r), height = turned + rows.begin(r + 1) - i;
      const Index at = panel + i * kPanel<T>;
      for (Index c = 0; c < columns; c += kTileColumns<T>) {
        const Tile<T> tile{x + i, ldx, dy + j + c, ldy, m, false, gradient + c, kPanel<T>};
        if (ahead || far) {
          // A part of what the next row of tiles updates.
          const Index next = at + height * (kPanel<T> + c);
          const Ahead<T> asked{{w + next, of(state1, next), of(state2, next)},
                               ahead ? height * kTileColumns<T> / kLine<T> : 0,
                               far && r + 1 == rows.count ? kPanel<T> : 0,
                               far ? 2 * height - 1 : 0};
          for (Index line = m; line < asked.lines; ++line) ask(asked, line);
          multiply<T, M, Factor::columns_asking>(height, columns - c, tile, &asked);
        } else {
          multiply<T, M, Factor::columns>(height, columns - c, tile);
        }
      }
      update_rows(at, height);
    }
  }
}

}  // namespace
}  // namespace dlcore
