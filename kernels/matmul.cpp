#include "kernels/matmul.h"

#include <cblas.h>
#include <omp.h>

#include <algorithm>
#include <climits>

#include "kernels/cpu.h"

namespace k {
namespace {

// CBLAS splits a product by the number of threads, and with it the order of its sums. So the split is made
// here, from the shape alone, and each tile is one single-threaded call: the same bits for any number of
// threads.
struct Tiles {
  std::int64_t rows = 256, columns = 512;  // measured: within 5% of one large call
  Tiles(std::int64_t m, std::int64_t n) {
    while (count(m, n) < 8 && rows * columns > 128 * 128) (rows > columns / 2 ? rows : columns) /= 2;
  }
  static std::int64_t pieces(std::int64_t n, std::int64_t size) { return (n + size - 1) / size; }
  std::int64_t count(std::int64_t m, std::int64_t n) const { return pieces(m, rows) * pieces(n, columns); }
};

constexpr int kMostCallers =
    64;  // OpenBLAS aborts when more threads than it was built for ask for its buffers

void add_or_set(float* d, const float* x, std::int64_t n, bool add) {
  if (add) {
#pragma omp simd
    for (std::int64_t c = 0; c < n; c++) d[c] += x[c];
  } else {
    std::copy_n(x, n, d);
  }
}

// What the product is added to: d, residual and bias, in this order. False if there is nothing.
bool start(const MatMul& p, std::int64_t row, std::int64_t column, std::int64_t rows, std::int64_t columns) {
  if (!p.residual.p && !p.bias.p) return p.d.add;
  for (std::int64_t r = row; r < row + rows; r++) {
    float* d = f32(p.d) + r * p.n + column;
    bool add = p.d.add;
    if (p.residual.p) {
      add_or_set(d, f32(p.residual) + r * p.n + column, columns, add);
      add = true;
    }
    if (p.bias.p) add_or_set(d, f32(p.bias) + column, columns, add);
  }
  return true;
}

}  // namespace

Cost cost(const MatMul& p) {
  double m = double(p.m), n = double(p.n), inner = double(p.k);
  double bytes =
      m * inner * double(size_of(p.a.t)) + inner * n * double(size_of(p.b.t)) + traffic(p.d, m * n);
  if (p.residual.p) bytes += m * n * double(size_of(p.residual.t));
  if (p.bias.p) bytes += n * double(size_of(p.bias.t));
  return {2 * m * n * inner, bytes};
}

Status run(Cpu, const MatMul& p) noexcept {
  if (!all_f32(p.d.t, p.a.t, p.b.t, p.residual.t, p.bias.t)) return unsupported_dtype();
  if (!p.d.p) return {};
  if (std::max({p.m, p.n, p.k}) > INT_MAX) return {1, "a dimension does not fit CBLAS"};
  const Tiles tiles(p.m, p.n);
  const std::int64_t down = Tiles::pieces(p.m, tiles.rows), across = Tiles::pieces(p.n, tiles.columns);
  const std::int64_t a_stride = p.transpose_a ? p.m : p.k, b_stride = p.transpose_b ? p.k : p.n;
  const int threads = std::min(omp_get_max_threads(), kMostCallers);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (std::int64_t tile = 0; tile < down * across; tile++) {
    const std::int64_t row = tile / across * tiles.rows, column = tile % across * tiles.columns;
    const std::int64_t rows = std::min(tiles.rows, p.m - row),
                       columns = std::min(tiles.columns, p.n - column);
    const bool add = start(p, row, column, rows, columns);
    cblas_sgemm(CblasRowMajor, p.transpose_a ? CblasTrans : CblasNoTrans,
                p.transpose_b ? CblasTrans : CblasNoTrans, int(rows), int(columns), int(p.k), 1.f,
                f32(p.a) + (p.transpose_a ? row : row * p.k), int(a_stride),
                f32(p.b) + (p.transpose_b ? column * p.k : column), int(b_stride), add ? 1.f : 0.f,
                f32(p.d) + row * p.n + column, int(p.n));
  }
  return {};
}

void keep_blas_to_one_thread() noexcept {
  if (openblas_get_parallel() == OPENBLAS_THREAD) openblas_set_num_threads(1);
}

}  // namespace k
