#include "schedule/report.hpp"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <fstream>
#include <functional>

namespace brood::schedule {

namespace {

constexpr double kFullSweepFactor = 30;
constexpr double kSampleFactor = 0.5;

bool is_full_sweep() {
  const char* sweep = std::getenv("BROOD_SWEEP");
  return sweep != nullptr && std::strcmp(sweep, "full") == 0;
}

// BROOD_SEED, or the day.
std::uint64_t today() {
  const char* given = std::getenv("BROOD_SEED");
  return given != nullptr ? std::strtoull(given, nullptr, 10)
                          : static_cast<std::uint64_t>(std::time(nullptr)) / 86'400;
}

void report(const char* name, const Limits& limits, const Result& result) {
  std::printf("%-58s %8llu schedules (%s), %llu steps\n", name,
              static_cast<unsigned long long>(result.executions),
              limits.seed == 0 ? "all" : ("seed " + std::to_string(limits.seed)).c_str(),
              static_cast<unsigned long long>(result.steps));
  if (!result.failure.empty()) {
    ADD_FAILURE() << name << ", seed " << limits.seed << ": " << result.failure;
  }
}

std::string source_line(const Place& place) {
  // The compiler may have named the file from where it ran.
  const std::size_t inside = place.path.rfind("/src/");
  std::ifstream in(inside == std::string::npos ? place.path
                                               : BROOD_SOURCE_DIR + place.path.substr(inside));
  std::string line;
  for (unsigned i = 0; i < place.line; ++i) std::getline(in, line);
  const std::size_t first = line.find_first_not_of(' ');
  return first == std::string::npos ? line : line.substr(first);
}

std::string file_of(const Place& place) { return place.path.substr(place.path.rfind('/') + 1); }

bool can_be(const Place& place, Damage damage) {
  switch (damage) {
    case Damage::relax:
      return place.ordered;
    case Damage::tear:
      return place.reads && place.writes;
    default:
      return place.writes;
  }
}

// BROOD_BREAK=TEXT: those alone whose description has it.
bool is_chosen(const std::string& what) {
  const char* const text = std::getenv("BROOD_BREAK");
  return text == nullptr || what.find(text) != std::string::npos;
}

bool is_of_today(const std::string& what) {
  return (std::hash<std::string>()(what) + today()) % 3 == 0;
}

// Chances by a seed of their own, always the same: what is noticed once is always noticed.
Limits limits_for_breaks(std::uint64_t executions) { return {.seed = 1, .executions = executions}; }

bool is_noticed(const std::vector<Body>& scenes, const Place& place, Damage how,
                std::uint64_t executions) {
  damage(place, how);
  bool noticed = false;
  // A little of each scene first: most breaks are noticed at once by the right one.
  for (const std::uint64_t part : {executions / 40, executions / 5, executions}) {
    for (const Body& scene : scenes) {
      noticed = noticed || !explore(limits_for_breaks(part), scene).failure.empty();
    }
  }
  damage(place, Damage::none);
  return noticed;
}

}  // namespace

void expect_right_in_all(const char* name, const Body& body, Limits limits) {
  limits.seconds = 120;
  const Result result = explore(limits, body);
  report(name, limits, result);
  EXPECT_TRUE(result.complete || !result.failure.empty()) << name << ": too many schedules";
}

void expect_right_by_seed(const char* name, const Body& body, double seconds, Limits limits) {
  limits.seed = today();
  limits.seconds = seconds * (is_full_sweep() ? kFullSweepFactor : kSampleFactor);
  report(name, limits, explore(limits, body));
}

void expect_breaks_noticed(const std::string& protocol, const std::vector<std::string>& files,
                           const std::vector<Body>& scenes, const std::vector<Excuse>& excuses,
                           std::uint64_t executions) {
  forget_places();
  for (const Body& scene : scenes) {
    const Result sound = explore(limits_for_breaks(executions), scene);
    ASSERT_EQ(sound.failure, "") << protocol << ", unbroken";
  }
  std::vector<bool> used(excuses.size(), false);
  int breaks = 0;
  int tried = 0;
  int noticed = 0;
  for (const Place& place : places()) {
    if (std::find(files.begin(), files.end(), file_of(place)) == files.end()) continue;
    for (const Damage how : {Damage::relax, Damage::tear, Damage::drop}) {
      if (!can_be(place, how)) continue;
      ++breaks;
      const std::string line = source_line(place);
      const std::string what =
          file_of(place) + ":" + std::to_string(place.line) + " " + name_of(how) + ": " + line;
      const auto excuse = std::find_if(excuses.begin(), excuses.end(), [&](const Excuse& e) {
        return file_of(place) == e.file && how == e.damage &&
               line.find(e.text) != std::string::npos;
      });
      const bool excused = excuse != excuses.end();
      if (excused) used[static_cast<std::size_t>(excuse - excuses.begin())] = true;
      if (!is_chosen(what)) continue;
      // To try in vain takes the longest: left to the full sweep, as are two thirds of the others
      // on each day.
      if (!is_full_sweep() && (excused || !is_of_today(what))) continue;
      ++tried;
      const bool is = is_noticed(scenes, place, how, executions);
      noticed += is ? 1 : 0;
      if (is == excused) {
        ADD_FAILURE() << protocol << (is ? ": no excuse needed for " : ": nobody notices ") << what;
      }
    }
  }
  for (std::size_t i = 0; i < excuses.size(); ++i) {
    EXPECT_TRUE(used[i]) << protocol << ": there is no " << excuses[i].file << ": "
                         << excuses[i].text << " " << name_of(excuses[i].damage);
  }
  std::printf("%-58s %8d breaks, %d tried, %d noticed\n", protocol.c_str(), breaks, tried, noticed);
}

}  // namespace brood::schedule
