#include "hash_tree.hpp"

#include <algorithm>
#include <brood/brood.hpp>
#include <chrono>
#include <limits>
#include <optional>
#include <utility>

#include "batches.hpp"
#include "chaos.hpp"

namespace checksum {
namespace {

using std::chrono::milliseconds;

// A batch that is lost with its worker is begun again so often before it counts as failed. Chaos
// may well hit one large file many times, but ends when all files were submitted.
constexpr unsigned kRetries = 20;
constexpr unsigned kRetriesUnderChaos = std::numeric_limits<unsigned>::max();
// Batches submitted ahead for each worker: enough to last while this process is asleep.
constexpr std::size_t kAhead = 16;
// Fewer under chaos, which needs time to strike while the workers are busy.
constexpr std::size_t kAheadUnderChaos = 4;
// Files to look for before the workers are seen to again.
constexpr std::size_t kFilesAtOnce = 256;

struct Submitted {
  Batch batch;
  brood::Future<std::vector<HashedFile>> future;
};

class Run {
 public:
  explicit Run(const Options& options)
      : walk_(options.root),
        pool_(brood::PoolOptions{.workers = options.jobs,
                                 .retries = options.chaos ? kRetriesUnderChaos : kRetries,
                                 .name = "checksum"}),
        window_(options.jobs * (options.chaos ? kAheadUnderChaos : kAhead)) {
    if (options.chaos) chaos_.emplace(pool_);
  }

  Outcome hash(Progress& progress) {
    do {
      submit();
      if (chaos_) chaos_->strike();
      find_more_or_wait();
      collect();
      if (progress.due()) progress.show(numbers());
    } while (!submitted_.empty() || !batches_.finished());
    return finish();
  }

 private:
  void submit() {
    if (chaos_ && chaos_->behind() && !submitted_.empty()) return;
    while (submitted_.size() < window_) {
      std::optional<Batch> batch = batches_.next();
      if (!batch) break;
      auto future = pool_.submit(hash_files, *batch);
      if (chaos_) chaos_->files_submitted(batch->paths.size());
      submitted_.push_back({std::move(*batch), std::move(future)});
    }
  }

  void find_more_or_wait() {
    if (!batches_.all_found()) {
      batches_.look_for(kFilesAtOnce);
    } else if (!submitted_.empty()) {
      // Batches begin in the order they were submitted: when the middle one ends, half of the
      // window is done, bar a large file. The limit is for that one, and for the progress.
      const auto& middle = submitted_[submitted_.size() / 2];
      static_cast<void>(middle.future.wait_for(milliseconds(chaos_ ? 1 : 10)));
    }
  }

  void collect() {
    for (Submitted& s : submitted_) {
      if (s.future.ready()) collect(s);
    }
    std::erase_if(submitted_, [](const Submitted& s) { return !s.future.valid(); });
  }

  void collect(Submitted& submitted) {
    std::vector<std::string>& paths = submitted.batch.paths;
    files_done_ += paths.size();
    try {
      std::vector<HashedFile> results = submitted.future.get();
      for (std::size_t i = 0; i < paths.size(); ++i) {
        outcome_.bytes += results[i].bytes;
        if (results[i].error.empty()) {
          outcome_.checksums.push_back({std::move(paths[i]), results[i].digest});
        } else {
          outcome_.failures.push_back({std::move(paths[i]), std::move(results[i].error)});
        }
      }
    } catch (const brood::WorkerDied& death) {
      for (std::string& path : paths) outcome_.failures.push_back({std::move(path), death.what()});
    }
  }

  Progress::Numbers numbers() const {
    return {.files_done = files_done_,
            .files_found = batches_.files_found(),
            .bytes_done = outcome_.bytes,
            .bytes_found = batches_.bytes_found(),
            .all_found = batches_.all_found(),
            .deaths = pool_.stats().died};
  }

  Outcome finish() {
    outcome_.deaths = pool_.stats().died;
    outcome_.failures.insert(outcome_.failures.end(), walk_.failures().begin(),
                             walk_.failures().end());
    std::ranges::sort(outcome_.checksums, {}, &Checksum::path);
    std::ranges::sort(outcome_.failures, {}, &Failure::path);
    return std::move(outcome_);
  }

  TreeWalk walk_;
  Batches batches_{walk_};
  brood::Pool pool_;
  std::optional<Chaos> chaos_;
  std::size_t window_;
  std::vector<Submitted> submitted_;  // oldest first
  std::size_t files_done_ = 0;
  Outcome outcome_;
};

}  // namespace

Outcome hash_tree(const Options& options, Progress& progress) {
  return Run(options).hash(progress);
}

}  // namespace checksum
