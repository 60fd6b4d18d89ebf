// What all handles of shared objects are made of.
//
// A handle is a value: copies name the same object, which lives as long as anybody in the family
// has a handle of it, or a message on its way contains one. A process's handles of one object count
// as one hold of that process (shm/object_layout.hpp).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "brood/detail/codec_core.hpp"
#include "brood/detail/codec_stream.hpp"
#include "brood/detail/codec_type_id.hpp"
#include "brood/error.hpp"

namespace brood::detail {

class ObjectHold;

// One side of one object, held by this process.
//
//   Threads:   any; a value as shared_ptr is. Blocking: never for long.
//   Ownership: of a part of this process's hold. In a child made by brood an inherited copy takes a
//              hold of its own when it is first used, if the object still lives; in a child that
//              the user forks it is inert.
//   Errors:    StaleHandle from use of an object that is gone; FamilyBroken.
//   Death:     of this process gives its holds back, once the warden has proof.
class ObjectHandle {
 public:
  ObjectHandle() noexcept = default;  // names nothing
  explicit ObjectHandle(std::shared_ptr<ObjectHold> hold) noexcept : hold_(std::move(hold)) {}

  explicit operator bool() const noexcept { return hold_ != nullptr; }
  [[nodiscard]] const std::shared_ptr<ObjectHold>& hold() const noexcept { return hold_; }
  // The object's name and side, the same in all processes; equal handles have equal ones.
  [[nodiscard]] std::uint64_t name() const noexcept;
  [[nodiscard]] std::uint32_t side() const noexcept;

  // A hold of a child that is about to be started, whose place in the family is `slot`; it is there
  // before the child is, so that ours may go. False: the object is gone.
  [[nodiscard]] bool give_to(std::uint16_t slot) const;
  void take_back_from(std::uint16_t slot) const noexcept;
  // In that child: the hold is now counted with this handle and its copies.
  void adopt() const;

 private:
  std::shared_ptr<ObjectHold> hold_;
};

// How a handle looks on its way.
struct SentHandle {
  std::uint64_t object = 0;
  std::uint32_t kind = 0;
  std::uint32_t side = 0;
  std::uint64_t type = 0;
};

// Handles that are being sent by this thread: whoever encodes keeps them until the other side has
// them. Without one, handles can't be encoded.
class HandleCollector {
 public:
  HandleCollector() noexcept;
  ~HandleCollector();
  HandleCollector(const HandleCollector&) = delete;
  HandleCollector& operator=(const HandleCollector&) = delete;

  [[nodiscard]] std::vector<ObjectHandle>& handles() noexcept { return handles_; }
  [[nodiscard]] const std::vector<ObjectHandle>& handles() const noexcept { return handles_; }
  // Of the calling thread, the innermost; nullptr: there is none.
  static HandleCollector* current() noexcept;

 private:
  std::vector<ObjectHandle> handles_;
  HandleCollector* outer_;
};

// Throws NotSendable if nobody collects, StaleHandle if the object is gone. An empty handle is sent
// as such.
SentHandle send_handle(const ObjectHandle& handle, std::uint32_t kind, std::uint64_t type);
// Throws StaleHandle, TypeMismatch (another kind of object, or of another type), DecodeError.
ObjectHandle receive_handle(const SentHandle& sent, std::uint32_t kind, std::uint64_t type);

// The codec of a handle class: specialise Codec<H> by deriving from this. H has
//   static constexpr std::uint32_t kKind       an shm::ObjectKind
//   static std::uint64_t object_type()         of what it holds
//   const ObjectHandle& object_handle() const
//   explicit H(ObjectHandle)                   may be private, with this as a friend
template <class H>
struct HandleCodec {
  using Parts = TypeList<>;
  static constexpr bool carries_handles = true;
  static constexpr std::optional<std::size_t> fixed_size = 24;

  template <class Out>
  static void encode(const H& handle, Out& out) {
    SentHandle sent;
    if constexpr (!Out::counts_only) {
      sent = send_handle(handle.object_handle(), H::kKind, H::object_type());
    }
    out.write_scalar(sent.object);
    out.write_scalar(sent.kind);
    out.write_scalar(sent.side);
    out.write_scalar(sent.type);
  }
  static H decode(Reader& reader) {
    SentHandle sent;
    sent.object = reader.read_scalar<std::uint64_t>();
    sent.kind = reader.read_scalar<std::uint32_t>();
    sent.side = reader.read_scalar<std::uint32_t>();
    sent.type = reader.read_scalar<std::uint64_t>();
    return H(receive_handle(sent, H::kKind, H::object_type()));
  }
};

// Whether an encoded T may contain handles; true also where that can't be known. Types in `Seen`
// are being asked already: a type may contain itself.
template <class T, class... Seen>
consteval bool may_carry_handles() {
  if constexpr ((std::is_same_v<T, Seen> || ...)) {
    return false;
  } else if constexpr (requires { CodecOf<T>::carries_handles; }) {
    return CodecOf<T>::carries_handles;
  } else {
    return []<class... Parts>(TypeList<Parts...>) {
      return (may_carry_handles<std::remove_const_t<Parts>, Seen..., T>() || ...);
    }(typename CodecOf<T>::Parts{});
  }
}

}  // namespace brood::detail
