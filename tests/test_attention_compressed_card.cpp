// Compressed attention in bf16 on a card, where tiles of many rows are multiplied at once, against the CPU's
// fp32 kernel on the same values (tests/test_attention_compressed.cpp holds that to the formula): several
// tiles of keys, several chunks of queries, several heads over one key/value head.
#include <algorithm>

#include "kernels/attention.h"
#include "tests/card_case.h"

using namespace engine;
using tests::Doubles;
using tests::Floats;
using tests::kCard;
using tests::no_card;
using tests::rounded;

namespace {

struct Case {
  k::AttentionShape shape;
  std::int64_t block, slots, blocks, top;
  Doubles q, ck, cv, memory, dout, start_q, start_ck, start_cv, start_memory;  // start: gradients are added

  Case(k::AttentionShape s, std::int64_t block, std::int64_t slots)
      : shape(s),
        block(block),
        slots(slots),
        blocks(s.length / block),
        top(std::min<std::int64_t>(4, blocks)) {
    const auto queries = std::size_t(s.batch * s.heads * s.length * s.dim),
               keys = std::size_t(s.batch * s.kv_heads * blocks * s.dim),
               learned = std::size_t(2 * s.kv_heads * slots * s.dim);
    unsigned seed = 1;
    for (Doubles* x : {&q, &dout, &start_q}) *x = rounded(tests::random_values(queries, seed++));
    for (Doubles* x : {&ck, &cv, &start_ck, &start_cv}) *x = rounded(tests::random_values(keys, seed++));
    for (Doubles* x : {&memory, &start_memory}) *x = rounded(tests::random_values(learned, seed++));
  }

  // out, lse, picks (their bits), dq, dck, dcv, dmemory
  std::vector<Floats> on(Device device, DType dtype, bool add = false) const {
    Stream stream(device);
    Arena arena(device);
    Context context{stream, arena};
    arena.commit();
    auto empty = [&](std::size_t count, DType t = DType::f32) {
      return tests::Guarded(device, {std::int64_t(count)}, stream, t);
    };
    auto filled = [&](const Doubles& x, DType t) {
      tests::Guarded to = empty(x.size(), t);
      to.set(x);
      return to;
    };
    auto start = [&](const Doubles& x, DType t) { return add ? filled(x, t) : empty(x.size(), t); };
    const std::int64_t rows = shape.batch * shape.heads * shape.length;
    tests::Guarded q_ = filled(q, dtype), ck_ = filled(ck, dtype), cv_ = filled(cv, dtype),
                   memory_ = filled(memory, dtype), dout_ = filled(dout, dtype);
    tests::Guarded out = empty(q.size(), dtype), lse = empty(std::size_t(rows)),
                   picks = empty(std::size_t(rows * top)),
                   logits = empty(std::size_t(rows / shape.length * blocks)),
                   delta = empty(std::size_t(rows)),
                   memory_parts = empty(memory.size() * std::size_t(shape.batch)),
                   parts = empty(std::size_t(k::compressed_parts(shape, blocks, slots)));
    tests::Guarded dq = start(start_q, dtype), dck = start(start_ck, dtype), dcv = start(start_cv, dtype),
                   dmemory = start(start_memory, DType::f32);
    const auto scale = float(1 / std::sqrt(double(shape.dim)));
    auto grad = [&](const tests::Guarded& x) { return k::Grad{x.tensor().data(), x.tensor().dtype(), add}; };
    auto* selected = static_cast<std::int32_t*>(picks.tensor().data());
    context.launch("compressed attention", k::CompressedForward{.out = out.tensor().out(),
                                                                .lse = lse.tensor().f32(),
                                                                .selected = selected,
                                                                .logits = logits.tensor().f32(),
                                                                .q = q_.tensor(),
                                                                .ck = ck_.tensor(),
                                                                .cv = cv_.tensor(),
                                                                .memory = memory_.tensor(),
                                                                .shape = shape,
                                                                .blocks = blocks,
                                                                .block = block,
                                                                .slots = slots,
                                                                .top = top,
                                                                .scale = scale});
    context.launch("compressed attention backward",
                   k::CompressedBackward{.dq = grad(dq),
                                         .dck = grad(dck),
                                         .dcv = grad(dcv),
                                         .dmemory = grad(dmemory),
                                         .memory_parts = memory_parts.tensor().f32(),
                                         .delta = delta.tensor().f32(),
                                         .tile_parts = parts.tensor().f32(),
                                         .dout = dout_.tensor(),
                                         .out = out.tensor(),
                                         .q = q_.tensor(),
                                         .ck = ck_.tensor(),
                                         .cv = cv_.tensor(),
                                         .memory = memory_.tensor(),
                                         .lse = lse.tensor().f32(),
                                         .selected = selected,
                                         .d_importance = nullptr,
                                         .shape = shape,
                                         .blocks = blocks,
                                         .block = block,
                                         .slots = slots,
                                         .top = top,
                                         .scale = scale});
    for (const tests::Guarded* x : {&delta, &parts}) CHECK(x->bands_intact());
    std::vector<Floats> result;
    for (const tests::Guarded* x : {&out, &lse, &picks, &dq, &dck, &dcv, &dmemory}) {
      CHECK(x->bands_intact());
      result.push_back(x->tensor().to_host(stream));
    }
    return result;
  }
};

constexpr std::size_t kPicks = 2;

template <class F> void for_each_case(F f) {
  for (std::int64_t dim : {32, 64, 128})
    for (std::int64_t length : {17, 64, 300, 513, 1100})
      for (std::int64_t block : {8, 16}) {
        CAPTURE(dim);
        CAPTURE(length);
        CAPTURE(block);
        f(Case({2, 4, length % 2 ? 1 : 2, length, dim}, block, length % 3 + 1));
      }
}

}  // namespace

TEST_CASE("compressed attention on a card: values and gradients in bf16" *
          doctest::skip(no_card("compressed attention on a card: values and gradients in bf16"))) {
  for_each_case([](const Case& c) {
    const std::vector<Floats> expected = c.on({}, DType::f32), got = c.on(kCard, DType::bf16);
    const std::vector<Floats> again = c.on(kCard, DType::bf16), sum = c.on(kCard, DType::bf16, true);
    const double bounds[] = {tests::kBf16ForwardBound,
                             1e-5,
                             0,
                             tests::kBf16GradientBound,
                             tests::kBf16GradientBound,
                             tests::kBf16GradientBound,
                             tests::kBf16GradientBound};
    const Doubles* starts[] = {&c.start_q, &c.start_ck, &c.start_cv, &c.start_memory};
    for (std::size_t i = 0; i < expected.size(); i++) {
      CAPTURE(i);
      if (i == kPicks) continue;
      CHECK(tests::relative_error(got[i], Doubles(expected[i].begin(), expected[i].end())) < bounds[i]);
    }
    tests::check_again_and_added(got, again, sum, starts);
  });
}

TEST_CASE("compressed attention on a card: picks, the lower block among equals" *
          doctest::skip(no_card("compressed attention on a card: picks, the lower block among equals"))) {
  for_each_case([](Case c) {  // small whole numbers: logits are exact, and many are equal
    for (Doubles* x : {&c.q, &c.ck})
      for (double& value : *x) value = std::clamp(std::round(value), -1., 1.);
    CHECK(tests::same_bits(c.on(kCard, DType::bf16)[kPicks], c.on({}, DType::f32)[kPicks]));
  });
}

TEST_CASE(
    "compressed attention on a card: nothing flows from later tokens, to the bit" *
    doctest::skip(no_card("compressed attention on a card: nothing flows from later tokens, to the bit"))) {
  for_each_case([](const Case& c) {
    const auto [batch, heads, kv_heads, length, dim] = c.shape;
    const std::int64_t last = length / 2;
    const std::vector<Floats> before = c.on(kCard, DType::bf16);
    auto later = [&, length = length](std::size_t row) { return std::int64_t(row) % length > last; };
    auto later_block = [&](std::size_t row) {
      return (std::int64_t(row) % c.blocks + 1) * c.block - 1 > last;
    };
    Case changed = c;
    for (Doubles* x : {&changed.q, &changed.dout})
      for (std::size_t e = 0; e < x->size(); e++)
        if (later(e / std::size_t(dim))) (*x)[e] = -3;
    for (Doubles* x : {&changed.ck, &changed.cv})
      for (std::size_t e = 0; e < x->size(); e++)
        if (later_block(e / std::size_t(dim))) (*x)[e] = 7;
    const std::vector<Floats> after = changed.on(kCard, DType::bf16);
    const std::int64_t widths[] = {dim, 1, c.top, dim};  // numbers of a query
    for (std::size_t i = 0; i < 4; i++)
      for (std::size_t e = 0; e < before[i].size(); e++)
        if (!later(e / std::size_t(widths[i])))
          REQUIRE(std::bit_cast<std::uint32_t>(before[i][e]) == std::bit_cast<std::uint32_t>(after[i][e]));

    Case silent = c;  // no gradient from later tokens: none for the blocks that end with them
    for (std::size_t e = 0; e < silent.dout.size(); e++)
      if (later(e / std::size_t(dim))) silent.dout[e] = 0;
    const std::vector<Floats> gradients = silent.on(kCard, DType::bf16);
    for (std::size_t i : {4, 5})
      for (std::size_t e = 0; e < gradients[i].size(); e++)
        if (later_block(e / std::size_t(dim))) REQUIRE(gradients[i][e] == 0);
  });
}
