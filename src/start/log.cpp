#include "brood/log.hpp"

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>

#include "start/process_name.hpp"
#include "sys/fd.hpp"
#include "sys/identity.hpp"
#include "sys/process.hpp"
#include "sys/process_mutex.hpp"

namespace brood {

namespace {

constexpr int kStderr = 2;

struct SharedSink {
  explicit SharedSink(LogSink f) : call(std::move(f)) {}
  const LogSink call;
  std::atomic<long> users{1};
};

// A child that is forked between two lines finds the pointer as it was or as it became, and what
// it points to whole: at worst with a user too many, who is a thread that the child does not have.
struct Settings {
  sys::ProcessMutex mutex;
  SharedSink* sink = nullptr;
  std::atomic<LogLevel> level{LogLevel::warning};
};
constinit Settings settings;

// While this thread is in a sink: the process, since a child that a sink starts is in none.
constinit thread_local std::uint64_t in_sink_of = 0;

// Keeps a sink that others may replace meanwhile.
class SinkUse {
 public:
  SinkUse() noexcept {
    const std::lock_guard lock(settings.mutex);
    sink_ = settings.sink;
    if (sink_ != nullptr) sink_->users.fetch_add(1, std::memory_order_relaxed);
  }
  explicit SinkUse(SharedSink* taken_over) noexcept : sink_(taken_over) {}
  ~SinkUse() {
    if (sink_ == nullptr) return;
    if (sink_->users.fetch_sub(1, std::memory_order_acq_rel) == 1) delete sink_;
  }
  SinkUse(const SinkUse&) = delete;
  SinkUse& operator=(const SinkUse&) = delete;

  [[nodiscard]] const LogSink* get() const noexcept {
    return sink_ != nullptr ? &sink_->call : nullptr;
  }

 private:
  SharedSink* sink_ = nullptr;
};

const char* name_of(LogLevel level) noexcept {
  switch (level) {
    case LogLevel::debug:
      return "DEBUG";
    case LogLevel::info:
      return "INFO";
    case LogLevel::warning:
      return "WARNING";
    case LogLevel::error:
      return "ERROR";
  }
  return "?";
}

void write_to_stderr(const LogRecord& record) {
  std::string line = "[";
  line.append(name_of(record.level)).append("/").append(record.process).append("] ");
  line.append(record.text).append("\n");
  sys::write_once(kStderr, line);
}

// False if nobody took the record.
bool hand_to_sink(const LogRecord& record) noexcept {
  if (in_sink_of == sys::process_token()) return false;
  const SinkUse sink;
  if (sink.get() == nullptr) return false;
  in_sink_of = sys::process_token();
  bool taken = true;
  try {
    (*sink.get())(record);
  } catch (...) {
    taken = false;
  }
  in_sink_of = 0;
  return taken;
}

}  // namespace

LogSink set_log_sink(LogSink sink) {
  std::unique_ptr<SharedSink> fresh;
  if (sink) fresh = std::make_unique<SharedSink>(std::move(sink));
  SharedSink* before = nullptr;
  {
    const std::lock_guard lock(settings.mutex);
    before = std::exchange(settings.sink, fresh.release());
  }
  const SinkUse last(before);
  return last.get() != nullptr ? *last.get() : LogSink{};
}

LogLevel set_log_level(LogLevel level) {
  return settings.level.exchange(level, std::memory_order_relaxed);
}

LogLevel log_level() { return settings.level.load(std::memory_order_relaxed); }

void log(LogLevel level, std::string_view text, const char* file, int line) noexcept {
  if (level < log_level()) return;
  try {
    const LogRecord record{.level = level,
                           .pid = sys::process_id(),
                           .process = start::process_name(),
                           .text = std::string(text),
                           .time = std::chrono::system_clock::now(),
                           .file = file,
                           .line = line};
    if (!hand_to_sink(record)) write_to_stderr(record);
  } catch (...) {
    // Without memory there is nothing to say it with.
  }
}

}  // namespace brood
