#include "tools/texts_in_order.h"

#include <algorithm>

namespace tools {

void TextsInOrder::add(std::size_t text, std::string_view piece, bool last) {
  waiting_.resize(std::max(waiting_.size(), text - first_ + 1));
  Waiting& grown = waiting_[text - first_];
  grown.text += piece;
  grown.ended |= last;
  while (!waiting_.empty() && (streamed_ || waiting_.front().ended)) {
    Waiting& front = waiting_.front();
    std::string now;
    if (!begun_) now = (first_ > 0 ? "---\n" : "") + prompt_;
    now += front.text;
    if (front.ended) now += '\n';
    begun_ = true;
    show_(now);
    front.text.clear();
    if (!front.ended) return;
    begun_ = false;
    waiting_.pop_front();
    first_++;
  }
}

}  // namespace tools
