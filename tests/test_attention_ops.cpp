// Dense and sparse attention as a whole, from packed rows to merged heads, against docs/model.md 1.2 in
// float64.
#include <algorithm>
#include <cmath>
#include <deque>
#include <memory>
#include <random>

#include "tests/op_case.h"
#include "tests/support.h"

using namespace engine;
using tests::Doubles;

namespace {

enum class Pairs { none, adjacent, halves };

struct Formula {
  std::int64_t batch, length;
  Heads heads;
  NsaConfig config = {};
  // The probabilities of the first call: what use_diff_topk's "p + const(1 - p)" holds fixed
  // (docs/model.md 1.2).
  std::shared_ptr<std::vector<Doubles>> frozen = std::make_shared<std::vector<Doubles>>();

  // Token t's features of head `column` of a packed row, turned by t.
  Doubles head(const Doubles& qkv, std::int64_t b, std::int64_t t, std::int64_t column, Pairs pairs) const {
    const std::int64_t dim = heads.dim;
    const double* row = &qkv[std::size_t((b * length + t) * heads.packed() + column * dim)];
    Doubles x(row, row + dim);
    for (std::int64_t c = 0; c < dim / 2 && pairs != Pairs::none; c++) {
      const auto frequency = float(std::pow(10000., -2. * double(c) / double(dim)));
      const auto angle = double(float(t) * frequency);
      const auto i = std::size_t(pairs == Pairs::adjacent ? 2 * c : c);
      const auto j = std::size_t(pairs == Pairs::adjacent ? 2 * c + 1 : c + dim / 2);
      x[i] = row[i] * std::cos(angle) - row[j] * std::sin(angle);
      x[j] = row[j] * std::cos(angle) + row[i] * std::sin(angle);
    }
    return x;
  }

  struct Keys {
    std::vector<Doubles> k, v;
    void add(Doubles key, Doubles value) { k.push_back(std::move(key)), v.push_back(std::move(value)); }
  };
  // Returns the probabilities; adds weight * sum p v to out.
  Doubles attend(const Doubles& q, const Keys& keys, double weight, double* out) const {
    Doubles p;
    double sum = 0;
    for (const Doubles& k : keys.k) {
      double logit = 0;
      for (std::size_t d = 0; d < q.size(); d++) logit += q[d] * k[d];
      p.push_back(std::exp(logit / std::sqrt(double(heads.dim))));
      sum += p.back();
    }
    for (std::size_t j = 0; j < p.size(); j++) {
      p[j] /= sum;
      for (std::size_t d = 0; d < q.size(); d++) out[d] += weight * p[j] * keys.v[j][d];
    }
    return p;
  }

  Doubles dense(const std::vector<Doubles>& in) const {
    const Doubles& qkv = in[0];
    Doubles y(std::size_t(batch * length * heads.query * heads.dim), 0.);
    for (std::int64_t b = 0; b < batch; b++)
      for (std::int64_t h = 0; h < heads.query; h++) {
        const std::int64_t kv = h / (heads.query / heads.kv);
        Keys keys;
        for (std::int64_t i = 0; i < length; i++) {
          keys.add(head(qkv, b, i, heads.query + kv, Pairs::adjacent),
                   head(qkv, b, i, heads.query + heads.kv + kv, Pairs::none));
          attend(head(qkv, b, i, h, Pairs::adjacent), keys, 1,
                 &y[std::size_t(((b * length + i) * heads.query + h) * heads.dim)]);
        }
      }
    return y;
  }

  // Block w of head `column`: its tokens and places through the head's convolution.
  Doubles compress(const Doubles& qkv, std::int64_t b, std::int64_t w, std::int64_t column, std::int64_t kv,
                   const Doubles& place, const Doubles& weight, const Doubles& bias) const {
    const std::int64_t dim = heads.dim, block = config.block;
    Doubles y(bias.begin() + std::ptrdiff_t(kv * dim), bias.begin() + std::ptrdiff_t((kv + 1) * dim));
    for (std::int64_t j = 0; j < block; j++) {
      const Doubles x = head(qkv, b, w * block + j, column, Pairs::none);
      for (std::int64_t o = 0; o < dim; o++)
        for (std::int64_t d = 0; d < dim; d++)
          y[std::size_t(o)] += weight[std::size_t(((kv * dim + o) * dim + d) * block + j)] *
                               (x[std::size_t(d)] + place[std::size_t((kv * block + j) * dim + d)]);
    }
    return y;
  }

  // Inputs qkv, gates; then memory, place k, v, weight k, v, bias k, v.
  Doubles sparse(const std::vector<Doubles>& in) const {
    const bool first_call = frozen->empty();
    const std::int64_t blocks = length / config.block, dim = heads.dim;
    Doubles y(std::size_t(batch * length * heads.query * dim), 0.);
    for (std::int64_t b = 0; b < batch; b++)
      for (std::int64_t h = 0; h < heads.query; h++) {
        const std::int64_t kv = h / (heads.query / heads.kv), key = heads.query + kv, value = key + heads.kv;
        Keys compressed;  // memory, then all blocks
        for (std::int64_t m = 0; m < config.memory; m++) {
          auto row = [&](std::int64_t part) {
            auto at = in[2].begin() + std::ptrdiff_t(((part * heads.kv + kv) * config.memory + m) * dim);
            return Doubles(at, at + std::ptrdiff_t(dim));
          };
          compressed.add(row(0), row(1));
        }
        for (std::int64_t w = 0; w < blocks; w++)
          compressed.add(compress(in[0], b, w, key, kv, in[3], in[5], in[7]),
                         compress(in[0], b, w, value, kv, in[4], in[6], in[8]));
        for (std::int64_t i = 0; i < length; i++) {
          const std::int64_t row = b * length + i;
          double* out = &y[std::size_t((row * heads.query + h) * dim)];
          auto gate = [&](std::int64_t branch) {
            return 1 / (1 + std::exp(-in[1][std::size_t(row * 3 * heads.query + 3 * h + branch)]));
          };
          Keys seen = compressed;
          const auto visible = std::size_t(config.memory + std::min(blocks, (i + 1) / config.block));
          seen.k.resize(visible), seen.v.resize(visible);
          Doubles p = attend(head(in[0], b, i, h, Pairs::none), seen, gate(0), out);
          p.erase(p.begin(), p.begin() + std::ptrdiff_t(config.memory));

          const auto query = std::size_t((b * heads.query + h) * length + i);
          if (first_call) frozen->push_back(p);
          const Doubles& base = (*frozen)[query];
          std::vector<std::size_t> order(p.size());
          for (std::size_t w = 0; w < order.size(); w++) order[w] = w;
          std::stable_sort(order.begin(), order.end(), [&](auto l, auto r) { return base[l] > base[r]; });
          if (std::int64_t(order.size()) > config.select) order.resize(std::size_t(config.select));
          Keys fine;
          auto add = [&](std::int64_t token, double scale) {
            Doubles k = head(in[0], b, token, key, Pairs::adjacent),
                    v = head(in[0], b, token, value, Pairs::none);
            for (double& x : k) x *= scale;
            for (double& x : v) x *= scale;
            fine.add(k, v);
          };
          for (std::size_t w : order)
            for (std::int64_t t = 0; base[w] > 1e-10 && t < config.block; t++)
              add(std::int64_t(w) * config.block + t, config.diff_topk ? 1 + p[w] - base[w] : 1);
          for (std::int64_t t = i / config.block * config.block; t <= i; t++) add(t, 1);
          attend(head(in[0], b, i, h, Pairs::adjacent), fine, gate(1), out);

          Keys near;
          for (std::int64_t t = std::max<std::int64_t>(0, i - config.window); t <= i; t++)
            near.add(head(in[0], b, t, key, Pairs::halves), head(in[0], b, t, value, Pairs::none));
          attend(head(in[0], b, i, h, Pairs::halves), near, gate(2), out);
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

void check_sparse(const Formula& f) {
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
      .reference = [=](const std::vector<Doubles>& v) { return f.sparse(v); },
      .stages = 4,  // split and rotate, compress, attend, gate
  });
}

}  // namespace

TEST_CASE("dense attention") {
  // The last ones are whole and partial tiles of the kernels for heads of 64 and 128.
  for (const Formula& f :
       {Formula{2, 1, {2, 2, 2}}, Formula{2, 9, {4, 2, 6}}, Formula{1, 20, {3, 1, 16}},
        Formula{2, 65, {2, 1, 64}}, Formula{1, 200, {3, 1, 64}}, Formula{1, 150, {2, 2, 128}}})
    tests::check({
        .name = fmt::format("dense attention, length {}, heads {}/{} of {}", f.length, f.heads.query,
                            f.heads.kv, f.heads.dim),
        .inputs = {{.shape = {f.batch * f.length, f.heads.packed()}}},
        .op =
            [=](Tape& t, const auto& given) {
              Tensor rope = ops::rope_table(t, f.length, f.heads.dim, 10000.f);
              return ops::dense_attention(t, given.inputs[0], rope, f.heads, f.batch);
            },
        .reference = [=](const std::vector<Doubles>& v) { return f.dense(v); },
    });
}

TEST_CASE("dense attention: over rows that nobody else holds") {
  for (const Formula& f :
       {Formula{2, 9, {4, 2, 6}}, Formula{2, 70, {3, 1, 64}}, Formula{1, 65, {2, 2, 128}}}) {
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
        .reference =
            [=](const std::vector<Doubles>& v) {
              Doubles sum = v[0];
              for (std::size_t i = 0; i < sum.size(); i++) sum[i] += v[1][i];
              return f.dense({sum});
            },
        .stages = 2,
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
