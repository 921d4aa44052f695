#include "tools/perplexity.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <numbers>

#include "data/token_file.h"
#include "engine/error.h"
#include "model/generator.h"
#include "tools/format.h"
#include "tools/text_file.h"
#include "tools/train_state.h"

namespace tools {
namespace {

using engine::Exit;
using engine::require;
using engine::Tensor;

constexpr std::size_t kMostText = 64 << 20;   // bytes
constexpr std::int64_t kTokensAtOnce = 4096;  // of a forward pass

ScoredText scored_tokens(const std::string& name, const engine::Checkpoint& checkpoint) {
  const auto file = std::make_shared<data::TokenFile>(name);
  require_same_vocabulary(checkpoint, *file);
  file->tokenizer();  // its ids are those of this vocabulary
  const bool whole = file->validation_from() == file->size();
  const std::uint64_t first = whole ? 0 : file->validation_from(), size = file->size() - first;
  require(size >= 2, Exit::data, "{}: {} tokens to score, expected at least 2; give more text", name, size);
  const std::uint64_t bytes =
      whole ? file->text_bytes_train() : file->text_bytes_validation();  // of all its tokens
  return {.size = std::int64_t(size),
          .bytes = double(bytes) * double(size - 1) / double(size),
          .part = whole ? "no validation part, all of it is scored" : "its validation part is scored",
          .read = [file, first](std::int64_t from, std::span<std::int32_t> ids) {
            file->read(first + std::uint64_t(from), ids);
          }};
}

// The forward pass of an evaluation over some windows at once, in planned memory.
class Forward {
 public:
  Forward(const model::Gpt& gpt, engine::Stream& stream, std::int64_t windows)
      : gpt_(gpt), stream_(stream), windows_(windows), arena_(stream.device()) {
    const engine::Shape all{windows * gpt.config().context};
    ids_ = Tensor::persistent(stream.device(), all, engine::DType::i32);
    targets_ = Tensor::persistent(stream.device(), all, engine::DType::i32);
    pass();
    arena_.commit();
  }
  // The loss of each target, 0 where it is negative.
  std::vector<float> losses(const std::vector<std::int32_t>& ids, const std::vector<std::int32_t>& targets) {
    stream_.copy(ids_.data(), ids.data(), ids_.bytes());
    stream_.copy(targets_.data(), targets.data(), targets_.bytes());
    return pass();
  }

 private:
  std::vector<float> pass() {
    engine::Context context{stream_, arena_};
    engine::Tape tape(context, engine::Tape::Mode::infer);
    const Tensor losses = gpt_.losses(tape, ids_, targets_, windows_, 0);
    return arena_.committed() ? losses.to_host(stream_) : std::vector<float>();
  }

  const model::Gpt& gpt_;
  engine::Stream& stream_;
  std::int64_t windows_;
  engine::Arena arena_;
  Tensor ids_, targets_;
};

double loss_of(std::int32_t target, const std::vector<float>& logits) {
  const double largest = *std::ranges::max_element(logits);
  double sum = 0;
  for (float logit : logits) sum += std::exp(double(logit) - largest);
  return std::log(sum) + largest - double(logits[std::size_t(target)]);
}

// The first losses once more, token by token through the generator.
void check_by_cache(const model::Gpt& gpt, engine::Stream& stream, const ScoredText& text,
                    const std::vector<float>& forward, const std::function<void()>& poll, Perplexity& found) {
  const std::int64_t length = gpt.config().context;
  found.checked = std::int64_t(forward.size());
  std::vector<std::int32_t> ids(forward.size() + 1);
  text.read(0, ids);
  model::Generator generator(gpt, stream, 1, length, {});
  for (std::int64_t t = 0; t < found.checked; t++) {
    poll();
    const std::span<const std::int32_t> next(&ids[std::size_t(t)], 1);
    if (t % length == 0) generator.start(next);
    else generator.read(next);
    const double loss = loss_of(ids[std::size_t(t) + 1], generator.logits());
    const double by_forward = forward[std::size_t(t)], difference = std::abs(loss - by_forward);
    found.cache_loss += loss / double(found.checked);
    found.forward_loss += by_forward / double(found.checked);
    if (!(difference <= found.largest_difference)) found.largest_difference = difference;
  }
}

}  // namespace

ScoredText open_scored(const std::string& file, const data::Tokenizer& tokenizer,
                       const engine::Checkpoint& checkpoint) {
  if (engine::begins_as_container(file)) return scored_tokens(file, checkpoint);
  const std::string text =
      read_text(file, kMostText, "too long to be scored as text; make a token file of it");
  std::vector<std::uint32_t> ids{tokenizer.end_of_text()};
  tokenizer.encode(text, ids);
  require(ids.size() >= 2, Exit::data,
          "{}: holds nothing that the vocabulary knows; give a text or token file", file);
  return {.size = std::int64_t(ids.size()),
          .bytes = double(text.size()),
          .read = [ids = std::move(ids)](std::int64_t from, std::span<std::int32_t> to) {
            std::copy_n(ids.begin() + from, to.size(), to.begin());
          }};
}

Perplexity measure(const model::Gpt& gpt, engine::Stream& stream, const ScoredText& text,
                   std::int64_t most_checked, const std::function<void()>& poll) {
  const std::int64_t length = gpt.config().context;
  Perplexity found{.targets = text.size - 1};
  const std::int64_t windows = (found.targets + length - 1) / length,
                     at_once = std::clamp<std::int64_t>(kTokensAtOnce / length, 1, windows);
  Forward forward(gpt, stream, at_once);
  const auto rows = std::size_t(at_once * length);
  std::vector<std::int32_t> ids(rows), targets(rows);
  std::vector<float> first;
  for (std::int64_t from = 0; from < found.targets; from += std::int64_t(rows)) {
    poll();
    // Windows follow each other without a gap, so that the targets are the ids one place on.
    const auto count = std::size_t(std::min(std::int64_t(rows), found.targets - from));
    std::ranges::fill(ids, 0);
    std::ranges::fill(targets, -1);
    text.read(from, std::span(ids).first(count));
    text.read(from + 1, std::span(targets).first(count));
    const std::vector<float> losses = forward.losses(ids, targets);
    for (std::size_t i = 0; i < count; i++) {
      require(std::isfinite(losses[i]), Exit::diverged,
              "the loss of token {} is {}; the checkpoint has diverged", from + std::int64_t(i) + 1,
              losses[i]);
      found.loss += losses[i] / double(found.targets);
      if (std::int64_t(first.size()) < most_checked) first.push_back(losses[i]);
    }
  }
  check_by_cache(gpt, stream, text, first, poll, found);
  require(std::isfinite(found.cache_loss), Exit::diverged,
          "the loss by the cache is {}, by the forward pass {}; the checkpoint has diverged",
          found.cache_loss, found.forward_loss);
  return found;
}

std::string to_line(const Perplexity& p, double bytes) {
  const double bits = p.loss * double(p.targets) / std::numbers::ln2;
  std::string line =
      fmt::format("ppl {:.1f} | loss {:.4f} | bpb {} | tokens {}", std::exp(p.loss), p.loss,
                  bytes > 0 ? fmt::format("{:.4f}", bits / bytes) : "n/a", with_commas(p.targets));
  if (p.checked == p.targets) line += fmt::format(" | by the cache: loss {:.4f}", p.cache_loss);
  else
    line += fmt::format(" | by the cache, the first {}: loss {:.4f} instead of {:.4f}",
                        with_commas(p.checked), p.cache_loss, p.forward_loss);
  return line + fmt::format(", largest difference {:.1e}", p.largest_difference);
}

}  // namespace tools
