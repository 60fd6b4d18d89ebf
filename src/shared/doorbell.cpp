#include "shared/doorbell.hpp"

#include <map>
#include <mutex>
#include <utility>

#include "sys/datagram.hpp"
#include "sys/fd.hpp"
#include "sys/identity.hpp"
#include "sys/syscall.hpp"

namespace brood::shared {

class DoorbellSocket {
 public:
  DoorbellSocket(std::shared_ptr<detail::ObjectHold> hold, channel::DoorbellBoard& board)
      : hold_(std::move(hold)), board_(board), token_(sys::process_token()), name_(name_here()) {
    socket_.reset(static_cast<int>(
        sys::require(sys::open_mailbox(name_.text()), "opening the doorbell of a shared object")));
    board_.watchers.set(slot_);
  }
  ~DoorbellSocket() {
    if (!is_ours()) {
      // The number may be another file's by now: a child closes what it inherits.
      socket_.release();
      return;
    }
    board_.watchers.clear(slot_);
  }
  DoorbellSocket(const DoorbellSocket&) = delete;
  DoorbellSocket& operator=(const DoorbellSocket&) = delete;

  [[nodiscard]] bool is_ours() const noexcept { return token_ == sys::process_token(); }
  [[nodiscard]] int fd() const noexcept { return socket_.get(); }
  [[nodiscard]] const channel::DoorbellName& name() const noexcept { return name_; }

 private:
  channel::DoorbellName name_here() {
    const shm::Objects& objects = detail::objects_here();
    slot_ = objects.me().slot;
    return {channel::id_of(board_), {slot_, objects.epoch_of(slot_)}};
  }

  std::shared_ptr<detail::ObjectHold> hold_;
  channel::DoorbellBoard& board_;
  std::uint64_t token_;
  std::uint16_t slot_ = 0;
  channel::DoorbellName name_;
  sys::Fd socket_;
};

namespace {

// The sockets of this process. A forked child begins with none, and leaves what it inherited alone.
class Sockets {
 public:
  static Sockets& here() noexcept {
    static Sockets sockets;
    return sockets;
  }

  std::shared_ptr<DoorbellSocket> of(const std::shared_ptr<detail::ObjectHold>& hold,
                                     channel::DoorbellBoard& board) {
    const std::lock_guard lock(mutex_);
    if (all_ == nullptr || token_ != sys::process_token()) {
      all_ = new Mine{{}, all_};  // for the rest of the process's life
      token_ = sys::process_token();
    }
    All& all = all_->sockets;
    std::erase_if(all, [](const auto& entry) { return entry.second.expired(); });
    std::weak_ptr<DoorbellSocket>& known = all[{hold->ref().bits, hold->side()}];
    std::shared_ptr<DoorbellSocket> socket = known.lock();
    if (socket == nullptr) known = socket = std::make_shared<DoorbellSocket>(hold, board);
    return socket;
  }

  // Under the lock, so that whoever opens it anew finds its name free.
  void drop(std::shared_ptr<DoorbellSocket>& socket) noexcept {
    const std::lock_guard lock(mutex_);
    socket.reset();
  }

 private:
  // By object and side: a side has one board.
  using All = std::map<std::pair<std::uint64_t, std::uint32_t>, std::weak_ptr<DoorbellSocket>>;
  sys::ProcessMutex mutex_;
  struct Mine {
    All sockets;
    Mine* inherited;  // kept reachable so that it is no leak
  };
  Mine* all_ = nullptr;
  std::uint64_t token_ = 0;
};

}  // namespace

Doorbell::~Doorbell() {
  if (socket_ != nullptr) Sockets::here().drop(socket_);
}

int Doorbell::open(const std::shared_ptr<detail::ObjectHold>& hold, channel::DoorbellBoard& board,
                   bool& is_new) {
  const std::lock_guard lock(opening_);
  is_new = socket_ == nullptr || !is_ours();
  if (is_new) {
    is_open_.store(false, std::memory_order_release);
    socket_ = Sockets::here().of(hold, board);
    // What is ready already has rung before.
    ring();
    is_open_.store(true, std::memory_order_release);
  }
  return socket_->fd();
}

bool Doorbell::is_ours() const noexcept { return socket_->is_ours(); }

void Doorbell::silence() const noexcept { sys::empty_mailbox(socket_->fd()); }

void Doorbell::ring() const noexcept { sys::knock(socket_->name().text()); }

}  // namespace brood::shared
