// Dense and sparse attention as a whole, from packed rows to merged heads, against docs/model.md 1.2 in
// float64.
#include <algorithm>
#include <array>
#include <cmath>
#include <deque>
#include <numeric>
#include <random>

#include "tests/op_case.h"
#include "tests/support.h"

using namespace engine;
using tests::Number;
using tests::Numbers;

namespace {

enum class Pairs { none, adjacent, halves };

// Attention as plain code writes it down, one tensor after the other.
struct Attention {
  using Rows = std::vector<Numbers>;  // of head size

  std::int64_t batch, length;
  Heads heads;
  NsaConfig config = {};

  // Head `column` of the packed rows of sequence b, each turned by its token.
  Rows head(const Numbers& qkv, std::int64_t b, std::int64_t column, Pairs pairs) const {
    const std::int64_t dim = heads.dim;
    Rows rows;
    for (std::int64_t t = 0; t < length; t++) {
      const Number* row = &qkv[std::size_t((b * length + t) * heads.packed() + column * dim)];
      Numbers& x = rows.emplace_back(row, row + dim);
      for (std::int64_t c = 0; c < dim / 2 && pairs != Pairs::none; c++) {
        const auto frequency = float(std::pow(10000., -2. * double(c) / double(dim)));
        const auto angle = double(float(t) * frequency);
        const auto i = std::size_t(pairs == Pairs::adjacent ? 2 * c : c);
        const auto j = std::size_t(pairs == Pairs::adjacent ? 2 * c + 1 : c + dim / 2);
        x[i] = stored(row[i] * std::cos(angle) - row[j] * std::sin(angle));
        x[j] = stored(row[j] * std::cos(angle) + row[i] * std::sin(angle));
      }
    }
    return rows;
  }

  struct Attended {
    Numbers p, out;
  };
  Attended attend(const Numbers& q, std::span<const Numbers> k, std::span<const Numbers> v) const {
    Attended y;
    for (const Numbers& key : k) y.p.push_back(exp(dot(q, key) / std::sqrt(double(heads.dim))));
    const Number total = sum(y.p);
    for (Number& p : y.p) p = stored(p / total);
    Numbers column(k.size());
    for (std::size_t d = 0; d < q.size(); d++) {
      for (std::size_t j = 0; j < column.size(); j++) column[j] = v[j][d];
      y.out.push_back(stored(dot(y.p, column)));
    }
    return y;
  }

  Numbers dense(const Numbers& qkv) const {
    Numbers y(std::size_t(batch * length * heads.query * heads.dim));
    for (std::int64_t b = 0; b < batch; b++)
      for (std::int64_t kv = 0; kv < heads.kv; kv++) {
        const Rows k = head(qkv, b, heads.query + kv, Pairs::adjacent),
                   v = head(qkv, b, heads.query + heads.kv + kv, Pairs::none);
        const std::int64_t group = heads.query / heads.kv;
        for (std::int64_t h = kv * group; h < (kv + 1) * group; h++) {
          const Rows q = head(qkv, b, h, Pairs::adjacent);
          for (std::size_t i = 0; i < q.size(); i++) {
            const Numbers out = attend(q[i], {k.data(), i + 1}, {v.data(), i + 1}).out;
            const std::int64_t row = b * length + std::int64_t(i);
            std::copy(out.begin(), out.end(), y.begin() + (row * heads.query + h) * heads.dim);
          }
        }
      }
    return y;
  }

  // What the branches of the queries of one key/value head read.
  struct Keys {
    Rows compressed_k, compressed_v;  // memory, then all blocks
    Rows adjacent, halves, v;
  };

  // The complete blocks of x, after the rows of memory: part 0 is keys, 1 values. Parameters: memory, place
  // k, v, weight k, v, bias k, v.
  Rows compress(const Rows& x, std::int64_t kv, std::int64_t part, std::span<const Numbers> params) const {
    const std::int64_t dim = heads.dim, block = config.block;
    const Numbers &memory = params[0], &place = params[std::size_t(1 + part)],
                  &weight = params[std::size_t(3 + part)], &bias = params[std::size_t(5 + part)];
    Rows y;
    for (std::int64_t m = 0; m < config.memory; m++) {
      const Number* row = &memory[std::size_t(((part * heads.kv + kv) * config.memory + m) * dim)];
      y.emplace_back(row, row + dim);
    }
    for (std::int64_t w = 0; w < length / block; w++) {
      Numbers placed(std::size_t(dim * block));
      for (std::int64_t j = 0; j < block; j++)
        for (std::int64_t d = 0; d < dim; d++)
          placed[std::size_t(d * block + j)] = stored(x[std::size_t(w * block + j)][std::size_t(d)] +
                                                      place[std::size_t((kv * block + j) * dim + d)]);
      Numbers& row = y.emplace_back();
      for (std::int64_t o = kv * dim; o < (kv + 1) * dim; o++)
        row.push_back(stored(dot(placed, {&weight[std::size_t(o * dim * block)], placed.size()}) +
                             bias[std::size_t(o)]));
    }
    return y;
  }

  // The outputs of query i's branches: compressed, fine, sliding.
  std::array<Numbers, 3> branches(std::int64_t i, const Numbers& plain, const Numbers& adjacent,
                                  const Numbers& halves, const Keys& keys) const {
    const std::int64_t block = config.block;
    const auto visible = std::size_t(config.memory + (i + 1) / block);
    Attended compressed =
        attend(plain, {keys.compressed_k.data(), visible}, {keys.compressed_v.data(), visible});
    const Numbers p(compressed.p.begin() + config.memory, compressed.p.end());
    std::vector<std::size_t> order(p.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](auto l, auto r) { return p[l] > p[r]; });
    if (const auto picks = std::size_t(config.select); order.size() > picks) {
      if (picks > 0) note_choice(p[order[picks - 1]], p[order[picks]]);
      order.resize(picks);
    }
    Rows k, v;
    for (std::size_t w : order)
      for (std::size_t t = w * std::size_t(block); p[w] > 1e-10 && t < (w + 1) * std::size_t(block); t++) {
        k.push_back(keys.adjacent[t]), v.push_back(keys.v[t]);
        if (!config.diff_topk) continue;
        const Number one = one_with_slope_of(p[w]);
        for (Number& x : k.back()) x = stored(x * one);
        for (Number& x : v.back()) x = stored(x * one);
      }
    for (auto t = std::size_t(i / block * block); t <= std::size_t(i); t++)
      k.push_back(keys.adjacent[t]), v.push_back(keys.v[t]);
    const auto first = std::size_t(std::max<std::int64_t>(0, i - config.window)),
               near = std::size_t(i) + 1 - first;
    return {std::move(compressed.out), attend(adjacent, k, v).out,
            attend(halves, {&keys.halves[first], near}, {&keys.v[first], near}).out};
  }

  // Inputs qkv, gates; then the parameters of compress().
  Numbers sparse(const std::vector<Numbers>& in) const {
    const Numbers &qkv = in[0], &gates = in[1];
    const std::span<const Numbers> params = std::span(in).subspan(2);
    Numbers y(std::size_t(batch * length * heads.query * heads.dim));
    for (std::int64_t b = 0; b < batch; b++)
      for (std::int64_t kv = 0; kv < heads.kv; kv++) {
        const std::int64_t key = heads.query + kv, value = key + heads.kv, group = heads.query / heads.kv;
        const Rows v = head(qkv, b, value, Pairs::none);
        const Keys keys{.compressed_k = compress(head(qkv, b, key, Pairs::none), kv, 0, params),
                        .compressed_v = compress(v, kv, 1, params),
                        .adjacent = head(qkv, b, key, Pairs::adjacent),
                        .halves = head(qkv, b, key, Pairs::halves),
                        .v = v};
        for (std::int64_t h = kv * group; h < (kv + 1) * group; h++) {
          const Rows plain = head(qkv, b, h, Pairs::none), adjacent = head(qkv, b, h, Pairs::adjacent),
                     halves = head(qkv, b, h, Pairs::halves);
          for (std::int64_t i = 0; i < length; i++) {
            const auto at = std::size_t(i);
            const auto outs = branches(i, plain[at], adjacent[at], halves[at], keys);
            const std::int64_t row = b * length + i;
            Numbers gate;
            for (std::int64_t n = 0; n < 3; n++)
              gate.push_back(stored(1 / (1 + exp(-gates[std::size_t(row * 3 * heads.query + 3 * h + n)]))));
            for (std::size_t d = 0; d < outs[0].size(); d++)
              y[std::size_t((row * heads.query + h) * heads.dim) + d] =
                  stored(gate[0] * outs[0][d] + gate[1] * outs[1][d] + gate[2] * outs[2][d]);
          }
        }
      }
    return y;
  }
};

NsaParams nsa_params(const std::vector<Param*>& p) {
  return {.memory = p[0],
          .place_k = p[1],
          .place_v = p[2],
          .compress_k = p[3],
          .compress_v = p[4],
          .bias_k = p[5],
          .bias_v = p[6]};
}

void check_sparse(const Attention& f) {
  const auto [query, kv, dim] = f.heads;
  const auto block = f.config.block, rows = f.batch * f.length;
  const double weight = 1.2 / std::sqrt(double(dim * block));
  tests::check({
      .name = fmt::format(
          "sparse attention, batch {}, length {}, heads {}/{} of {}, block {}, select {}, diff {}", f.batch,
          f.length, query, kv, dim, block, f.config.select, f.config.diff_topk),
      .inputs = {{.shape = {rows, f.heads.packed()}}, {.shape = {rows, 3 * query}}},
      .params = {{.shape = {2, kv, f.config.memory, dim}},
                 {.shape = {kv, block, dim}, .deviation = 0.5},
                 {.shape = {kv, block, dim}, .deviation = 0.5},
                 {.shape = {kv * dim, dim, block}, .deviation = weight},
                 {.shape = {kv * dim, dim, block}, .deviation = weight},
                 {.shape = {kv * dim}, .deviation = 0.5},
                 {.shape = {kv * dim}, .deviation = 0.5}},
      .op =
          [=](Tape& t, const auto& given) {
            Tensor rope = ops::rope_table(t, f.length, f.heads.dim, 10000.f);
            return ops::sparse_attention(t, given.inputs[0], given.inputs[1], rope, nsa_params(given.params),
                                         f.heads, f.config, f.batch);
          },
      .reference = [=](const std::vector<Numbers>& v) { return f.sparse(v); },
  });
}

}  // namespace

TEST_CASE("dense attention") {
  // The last ones are whole and partial tiles of the kernels for heads of 64 and 128.
  for (const Attention& f :
       {Attention{2, 1, {2, 2, 2}}, Attention{2, 9, {4, 2, 6}}, Attention{1, 20, {3, 1, 16}},
        Attention{2, 65, {2, 1, 64}}, Attention{1, 200, {3, 1, 64}}, Attention{1, 150, {2, 2, 128}}})
    tests::check({
        .name = fmt::format("dense attention, length {}, heads {}/{} of {}", f.length, f.heads.query,
                            f.heads.kv, f.heads.dim),
        .inputs = {{.shape = {f.batch * f.length, f.heads.packed()}}},
        .op =
            [=](Tape& t, const auto& given) {
              Tensor rope = ops::rope_table(t, f.length, f.heads.dim, 10000.f);
              return ops::dense_attention(t, given.inputs[0], rope, f.heads, f.batch);
            },
        .reference = [=](const std::vector<Numbers>& v) { return f.dense(v[0]); },
    });
}

TEST_CASE("dense attention: over rows that nobody else holds") {
  for (const Attention& f :
       {Attention{2, 9, {4, 2, 6}}, Attention{2, 70, {3, 1, 64}}, Attention{1, 65, {2, 2, 128}}}) {
    const tests::OpCase::Random half{.shape = {f.batch * f.length, f.heads.packed()}, .deviation = 0.7};
    tests::check({
        .name = fmt::format("dense attention over a sum, heads of {}", f.heads.dim),
        .inputs = {half, half},
        .op =
            [=](Tape& t, const auto& given) {
              Tensor rope = ops::rope_table(t, f.length, f.heads.dim, 10000.f);
              return ops::dense_attention(t, ops::add(t, given.inputs[0], given.inputs[1]), rope, f.heads,
                                          f.batch);
            },
        .reference = [=](const std::vector<Numbers>& v) { return f.dense(tests::added(v[0], v[1])); },
    });
  }
}

TEST_CASE("sparse attention") {
  for (bool diff : {false, true})
    for (std::int64_t length : {1, 3, 4, 5, 9, 22}) {
      check_sparse(
          {2, length, {2, 2, 4}, {.block = 4, .select = 2, .window = 3, .memory = 2, .diff_topk = diff}});
      check_sparse(
          {1, length, {4, 2, 2}, {.block = 4, .select = 3, .window = 4, .memory = 1, .diff_topk = diff}});
    }
  check_sparse({1, 12, {1, 1, 6}, {.block = 3, .select = 0, .window = 0, .memory = 3, .diff_topk = true}});
}

// The sizes that cards have bodies of their own for. As many picks as blocks, so that rounding cannot change
// them.
TEST_CASE("sparse attention: heads of 64, blocks of 16" *
          doctest::skip(tests::lacks("sparse attention: heads of 64, blocks of 16",
                                     engine::cuda_device_count() == 0, "no CUDA card"))) {
  const NsaConfig config{.block = 16, .select = 4, .window = 16, .memory = 4};
  for (std::int64_t length : {7, 16, 33}) check_sparse({2, length, {1, 1, 64}, config});
  check_sparse({1, 70, {2, 2, 64}, config});
}

TEST_CASE("sparse attention hands out its picks") {
  Stream stream{Device{}};
  Arena arena{Device{}};
  Context context{stream, arena};
  const Heads heads{.query = 2, .kv = 2, .dim = 4};
  const NsaConfig config{.block = 4, .select = 3, .window = 4, .memory = 1};
  std::deque<Param> params(7);
  std::vector<Param*> pointers;
  const Shape shapes[] = {{2, 2, 1, 4}, {2, 4, 4}, {2, 4, 4}, {8, 4, 4}, {8, 4, 4}, {8}, {8}};
  for (std::size_t i = 0; i < 7; i++) {
    params[i].value = Tensor::persistent({}, shapes[i], DType::f32);  // zeros: all blocks are equal
    pointers.push_back(&params[i]);
  }
  Tensor qkv = Tensor::persistent({}, {2 * 11, heads.packed()}, DType::f32);
  Tensor gates = Tensor::persistent({}, {2 * 11, 6}, DType::f32);
  for (int pass = 0; pass < 2; pass++) {
    Tape tape(context, Tape::Mode::infer);
    Tensor rope = ops::rope_table(tape, 11, 4, 10000.f), picks;
    Tensor y = ops::sparse_attention(tape, qkv, gates, rope, nsa_params(pointers), heads, config, 2, &picks);
    CHECK(picks.shape() == Shape{2, 2, 11, 2});  // two blocks are complete
    if (pass == 0) {
      y = rope = picks = Tensor();
      arena.commit();
      continue;
    }
    for (std::int64_t row = 0; row < 2 * 2 * 11; row++) {
      const std::int64_t visible = (row % 11 + 1) / 4;
      CHECK(picks.i32()[2 * row] == (visible > 0 ? 0 : -1));
      CHECK(picks.i32()[2 * row + 1] == (visible > 1 ? 1 : -1));
    }
  }
}

TEST_CASE("attention says what does not fit") {
  Stream stream{Device{}};
  Arena arena{Device{}};
  Context context{stream, arena};
  Tape tape(context);
  Tensor qkv = Tensor::persistent({}, {6, 24}, DType::f32),
         gates = Tensor::persistent({}, {6, 6}, DType::f32);
  Tensor rope = ops::rope_table(tape, 3, 4, 10000.f);
  CHECK_NOTHROW(ops::dense_attention(tape, qkv, rope, {2, 2, 4}, 2));
  CHECK_THROWS_WITH_AS(
      ops::dense_attention(tape, qkv, rope, {3, 2, 4}, 2),
      "dense_attention: 3 query heads over 2 key/value heads; give a multiple of the key/value heads", Error);
  CHECK_THROWS_WITH_AS(ops::dense_attention(tape, qkv, rope, {2, 2, 3}, 2),
                       "dense_attention: head size 3; rotation needs an even one", Error);
  CHECK_THROWS_WITH_AS(ops::dense_attention(tape, qkv, rope, {2, 2, 6}, 2),
                       "dense_attention: qkv is [6, 24], expected [rows, 36] for 2 + 2 x 2 heads of 6",
                       Error);
  CHECK_THROWS_WITH_AS(ops::dense_attention(tape, qkv, rope, {2, 2, 4}, 4),
                       "dense_attention: qkv has 6 rows, not a multiple of batch 4", Error);
  CHECK_THROWS_WITH_AS(ops::dense_attention(tape, qkv, rope, {2, 2, 4}, 1),
                       "dense_attention: the rotation table is [3, 2, 2], expected [6, 2, 2]", Error);
  CHECK_THROWS_WITH_AS(ops::sparse_attention(tape, qkv, gates, rope, {}, {2, 2, 4}, {}, 2),
                       "sparse_attention: the parameter memory is missing", Error);
  CHECK_THROWS_AS(ops::sparse_attention(tape, qkv, gates, rope, {}, {2, 2, 4}, {.block = 0}, 2), Error);
  Param memory;
  memory.name = "layers.0.memory";
  memory.value = Tensor::persistent({}, {2, 2, 3, 4}, DType::f32);
  CHECK_THROWS_WITH_AS(
      ops::sparse_attention(tape, qkv, gates, rope, {.memory = &memory}, {2, 2, 4}, {.memory = 5}, 2),
      "sparse_attention: layers.0.memory (memory) is [2, 2, 3, 4], expected [2, 2, 5, 4]", Error);
}

namespace {

// The picks of queries whose logits are whole numbers, so that every precision computes them exactly and many
// are equal.
std::vector<std::int32_t> picks_of_integers(Device device, DType dtype, std::int64_t length,
                                            const Heads& heads, const NsaConfig& config) {
  constexpr std::int64_t kBatch = 2;
  Stream stream(device);
  Arena arena(device);
  Context context{stream, arena};
  const auto tensor = [&](Shape shape, auto value) {
    const Tensor t = Tensor::persistent(device, shape, dtype);
    std::vector<float> values(std::size_t(shape.numel()));
    for (std::size_t i = 0; i < values.size(); i++) values[i] = float(value(std::int64_t(i)));
    t.from_host(values.data(), stream);
    return t;
  };
  const auto zero = [](std::int64_t) { return 0; };
  const std::int64_t dim = heads.dim, block = config.block, width = dim * block;
  std::mt19937 bits(5);
  const Tensor qkv =
      tensor({kBatch * length, heads.packed()}, [&](std::int64_t) { return int(bits() % 3) - 1; });
  const Tensor gates = tensor({kBatch * length, 3 * heads.query}, zero);
  std::deque<Param> params(7);
  params[0].value = tensor({2, heads.kv, config.memory, dim}, zero);
  params[1].value = params[2].value = tensor({heads.kv, block, dim}, zero);
  // A block's compressed key is the sum of its first two tokens.
  params[3].value = params[4].value = tensor({heads.kv * dim, dim, block}, [&](std::int64_t i) {
    return i / width % dim == i / block % dim && i % block < 2 ? 1 : 0;
  });
  params[5].value = params[6].value = tensor({heads.kv * dim}, zero);
  std::vector<Param*> pointers;
  for (Param& p : params) pointers.push_back(&p);
  std::vector<std::int32_t> picks;
  for (int pass = 0; pass < 2; pass++) {  // a rehearsal first
    if (pass == 1) arena.commit();
    Tape tape(context, Tape::Mode::infer);
    Tensor selected;
    const Tensor rope = ops::rope_table(tape, length, dim, 10000.f);
    const Tensor y =
        ops::sparse_attention(tape, qkv, gates, rope, nsa_params(pointers), heads, config, kBatch, &selected);
    if (pass == 0) continue;
    picks.resize(std::size_t(selected.numel()));
    stream.copy(picks.data(), selected.data(), selected.bytes());
    stream.wait();
  }
  return picks;
}

}  // namespace

TEST_CASE("sparse attention: a card picks the same blocks as the CPU, ties too" *
          doctest::skip(tests::lacks("sparse attention: a card picks the same blocks as the CPU, ties too",
                                     engine::cuda_device_count() == 0, "no CUDA card"))) {
  const Device card{DeviceKind::cuda, 0};
  for (std::int64_t length : {15, 16, 33, 130, 700})
    for (std::int64_t select : {0, 1, 4}) {
      CAPTURE(length);
      CAPTURE(select);
      const Heads heads{.query = 4, .kv = 2, .dim = 64};
      const NsaConfig config{.block = 16, .select = select, .window = 16, .memory = 4};
      const auto expected = picks_of_integers({}, DType::f32, length, heads, config);
      CHECK(picks_of_integers(card, DType::bf16, length, heads, config) == expected);
      CHECK(picks_of_integers(card, DType::f32, length, heads, config) == expected);
    }
}
