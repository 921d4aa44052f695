#include "data/interrupt.h"

#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "engine/error.h"

namespace data {

Interrupt::Interrupt() {
  sigset_t held;
  sigemptyset(&held);
  sigaddset(&held, SIGINT);
  sigaddset(&held, SIGTERM);
  file_ = signalfd(-1, &held, SFD_NONBLOCK | SFD_CLOEXEC);
  engine::require(file_ >= 0, engine::Exit::failure, "signalfd failed: {}", std::strerror(errno));
  pthread_sigmask(SIG_BLOCK, &held, &before_);
}

Interrupt::~Interrupt() {
  signalfd_siginfo dropped;
  while (::read(file_, &dropped, sizeof dropped) == sizeof dropped) {
  }
  pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  ::close(file_);
}

void Interrupt::check() const {
  signalfd_siginfo info;
  if (::read(file_, &info, sizeof info) == sizeof info) signal_ = static_cast<int>(info.ssi_signo);
  if (const int signal = signal_) throw Interrupted{signal};
}

}  // namespace data
