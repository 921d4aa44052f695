// SIGINT and SIGTERM as an exception, so that every destructor removes what it wrote.
#pragma once
#include <atomic>
#include <csignal>

namespace data {

struct Interrupted {  // the program exits with 128 + signal
  int signal;
};

class Interrupt {
 public:
  // From here on the two signals are held back in this thread and in the threads it starts, until the
  // destructor, which drops those that came since: nobody is killed between the last save and the exit code.
  Interrupt();
  ~Interrupt();
  Interrupt(const Interrupt&) = delete;
  Interrupt& operator=(const Interrupt&) = delete;
  void check() const;                            // throws Interrupted once a signal has come; any thread
  void forget() const noexcept { signal_ = 0; }  // check() throws at the next signal only

 private:
  int file_ = -1;
  sigset_t before_{};
  mutable std::atomic<int> signal_{0};
};

}  // namespace data
