// How well a text is predicted: against losses by hand, and what is scored of a file.
#include "tools/perplexity.h"

#include <cmath>
#include <numbers>

#include "engine/error.h"
#include "tests/small_gpt.h"

namespace {

tools::ScoredText text_of(const tests::Ids& ids) {
  return {.size = std::int64_t(ids.size()), .read = [ids](std::int64_t from, std::span<std::int32_t> to) {
            std::copy_n(ids.begin() + from, to.size(), to.begin());
          }};
}

}  // namespace

TEST_CASE("perplexity: the mean loss over windows of the trained length, also by the cache") {
  for (const auto& [name, config] : tests::configs()) {
    CAPTURE(name);
    tests::Model model(config);
    for (std::int64_t size : {2, 64, 65, 66, 170}) {
      CAPTURE(size);
      const tests::Ids ids = tests::random_ids(size, config.vocab, unsigned(size));
      std::vector<double> losses;
      for (std::int64_t from = 0; from + 1 < size; from += config.context) {
        const std::int64_t count = std::min(config.context, size - 1 - from);
        const auto rows = model.logits({ids.begin() + from, ids.begin() + from + count});
        for (std::int64_t i = 0; i < count; i++) {
          double sum = 0;
          for (float logit : rows[std::size_t(i)]) sum += std::exp(double(logit));
          losses.push_back(std::log(sum) -
                           double(rows[std::size_t(i)][std::size_t(ids[std::size_t(from + i + 1)])]));
        }
      }
      double all = 0, first = 0;
      const std::size_t checked = std::min<std::size_t>(losses.size(), 70);
      for (std::size_t i = 0; i < losses.size(); i++) all += losses[i], first += i < checked ? losses[i] : 0;
      const auto found = tools::measure(model.gpt(), model.stream, text_of(ids), 70, [] {});
      CHECK(found.targets == size - 1);
      CHECK(found.loss == doctest::Approx(all / double(losses.size())).epsilon(1e-5));
      CHECK(found.checked == std::int64_t(checked));
      CHECK(found.forward_loss == doctest::Approx(first / double(checked)).epsilon(1e-5));
      CHECK(found.cache_loss == doctest::Approx(found.forward_loss).epsilon(1e-5));
      CHECK(found.largest_difference < 1e-4);
    }
  }
}

TEST_CASE("perplexity: a loss that is not finite is an error") {
  tests::Model model(tests::small(model::Attention::dense));
  model.store().all().back().value.from_host(std::vector<float>(std::size_t(64 * 16), 1e38f).data(),
                                             model.stream);
  try {
    tools::measure(model.gpt(), model.stream, text_of({1, 2, 3, 4}), 10, [] {});
    CHECK(false);
  } catch (const engine::Error& error) {
    CHECK(error.code == engine::Exit::diverged);
  }
}

TEST_CASE("perplexity: its line") {
  tools::Perplexity p{.loss = 2 * std::numbers::ln2, .targets = 3000, .checked = 3000};
  p.cache_loss = p.forward_loss = p.loss, p.largest_difference = 1.5e-6;
  CHECK(tools::to_line(p, 6000) ==
        "ppl 4.0 | loss 1.3863 | bpb 1.0000 | tokens 3,000 | by the cache: loss 1.3863, largest difference "
        "1.5e-06");
  p.checked = 1024, p.cache_loss = 1.5, p.forward_loss = 1.25;
  CHECK(tools::to_line(p, 0) ==
        "ppl 4.0 | loss 1.3863 | bpb n/a | tokens 3,000 | by the cache, the first 1,024: loss 1.5000 instead "
        "of "
        "1.2500, largest difference 1.5e-06");
}
