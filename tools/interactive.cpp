#include "tools/interactive.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>

#include "data/text_output.h"
#include "data/utf8.h"
#include "engine/error.h"
#include "tools/console.h"

namespace tools {
namespace {

using engine::Exit;
using engine::require;

constexpr std::size_t kLongestLine = 16 << 20;  // bytes

class Lines {  // of standard input
 public:
  explicit Lines(const data::Interrupt& interrupt) : interrupt_(interrupt) {}

  // The next one, without its line feed; nothing at the end of the input.
  std::optional<std::string> next() {
    for (std::size_t searched = 0;;) {
      const std::size_t end = held_.find('\n', searched);
      if (end != held_.npos) return take(end, 1);
      require(held_.size() <= kLongestLine, Exit::data,
              "standard input: a line of over {} bytes; give shorter ones", kLongestLine);
      searched = held_.size();
      if (read_more()) continue;
      if (held_.empty()) return std::nullopt;
      return take(held_.size(), 0);
    }
  }

 private:
  std::string take(std::size_t size, std::size_t skip) {
    std::string line = held_.substr(0, size);
    held_.erase(0, size + skip);
    return line;
  }
  bool read_more() {
    char bytes[4096];
    for (;;) {
      interrupt_.check();
      pollfd wanted{STDIN_FILENO, POLLIN, 0};
      if (::poll(&wanted, 1, 100) <= 0) continue;
      const ssize_t n = ::read(STDIN_FILENO, bytes, sizeof bytes);
      if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
      require(n >= 0, Exit::data, "standard input: cannot be read: {}; give lines of text",
              std::strerror(errno));
      held_.append(bytes, std::size_t(n));
      return n > 0;
    }
  }

  const data::Interrupt& interrupt_;
  std::string held_;
};

class Talk {
 public:
  explicit Talk(const Conversation& c)
      : c_(c), room_(most_room(c.gpt.config())), generator_(c.gpt, c.stream, 1, room_, c.sampler, c.banned) {}

  // The history goes on with these; always leaves room for a token.
  void read(std::span<const std::int32_t> tokens) {
    const bool first = history_.empty();
    history_.insert(history_.end(), tokens.begin(), tokens.end());
    if (std::int64_t(history_.size()) >= room_) keep_end();
    else if (first) generator_.start(history_, c_.seed);
    else if (!tokens.empty()) generator_.read(tokens);
  }

  void read_line(std::string_view line) {
    std::vector<std::uint32_t> ids;
    c_.tokenizer.encode(data::repair_utf8(line), ids);
    if (ids.empty() && history_.empty()) ids.push_back(c_.tokenizer.end_of_text());
    read(std::vector<std::int32_t>(ids.begin(), ids.end()));
  }

  void reply(const Prompt& shown_before) {
    ShownText shown(c_.tokenizer, {.tokens = history_, .held = shown_before.held}, c_.rules);
    std::string text = shown_before.text;
    if (c_.streamed) show(text);
    for (std::int64_t n = 0; n != c_.tokens && !shown.ended(); n++) {
      c_.interrupt.check();
      if (generator_.length() == room_) {
        if (c_.tokens < 0) break;
        keep_end();
      }
      history_.push_back(generator_.draw().front());
      shown.push(history_.back(), text);
      if (c_.streamed) show(text);
    }
    shown.finish(text);
    text += '\n';
    show(text);
  }

 private:
  void show(std::string& text) {
    data::write_to_stdout(text, [this] { c_.interrupt.check(); });
    text.clear();
  }

  void keep_end() {
    const std::int64_t kept = kept_end(room_);
    if (!c_.quiet && times_full_ == 0)
      note(
          "sample: the trained length of {} tokens is full: the last {} are kept, here and when it is full "
          "again\n",
          c_.gpt.config().context, kept);
    history_.erase(history_.begin(), history_.end() - std::min(kept, std::int64_t(history_.size())));
    generator_.start(history_, seed_of_round(c_.seed, ++times_full_));
  }

  const Conversation& c_;
  std::int64_t room_;  // tokens: the trained length, but for one token and one that follows at least
  model::Generator generator_;
  std::vector<std::int32_t> history_;  // what the generator holds
  std::int64_t times_full_ = 0;
};

}  // namespace

void converse(const Conversation& c, const Prompt& opening) {
  const bool terminal = ::isatty(STDIN_FILENO) == 1, marked = terminal && ::isatty(STDERR_FILENO) == 1;
  Lines lines(c.interrupt);
  Talk talk(c);
  const auto reply = [&](const Prompt& shown_before) {
    try {
      talk.reply(shown_before);
    } catch (const data::Interrupted& stop) {
      if (c.streamed) end_line();
      if (!terminal || stop.signal != SIGINT) throw;
      c.interrupt.forget();
    }
  };
  const auto next_line = [&] {
    if (marked) note("> ");
    try {
      return lines.next();
    } catch (const data::Interrupted&) {
      if (marked) note("\n");
      throw;
    }
  };
  if (!opening.tokens.empty()) {
    talk.read(opening.tokens);
    reply(opening);
  }
  while (const std::optional<std::string> line = next_line()) {
    talk.read_line(*line);
    reply({});
  }
  if (marked) note("\n");
}

}  // namespace tools
