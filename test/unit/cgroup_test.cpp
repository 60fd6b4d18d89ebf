// Processor quotas of control groups, in the layouts that machines and containers show.
#include "sys/cgroup.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <iterator>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "brood/cpu_count.hpp"
#include "brood/pool.hpp"
#include "support/time.hpp"
#include "sys/process.hpp"

namespace brood::sys {
namespace {

using Files = std::map<std::string, std::string>;
using Cpus = std::optional<std::uint64_t>;

Cpus cpus(const std::string& mountinfo, const std::string& cgroup, const Files& files) {
  return cgroup_cpus(mountinfo, cgroup, [&](const std::string& path) {
    const auto file = files.find(path);
    return file == files.end() ? std::nullopt : std::optional(file->second);
  });
}

// The lines that surround those of control groups.
const std::string kOtherMounts =
    "22 28 0:20 / /sys rw,nosuid - sysfs sysfs rw\n"
    "28 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro\n";
const std::string kV2 =
    kOtherMounts +
    "35 22 0:30 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
const std::string kV1 =
    kOtherMounts +
    "40 22 0:31 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n"
    "41 22 0:32 / /sys/fs/cgroup/cpu,cpuacct rw shared:3 - cgroup cgroup rw,cpu,cpuacct\n"
    "42 22 0:33 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n";

Cpus of_max(const std::string& text) {
  return cpus(kV2, "0::/a\n", {{"/sys/fs/cgroup/a/cpu.max", text}});
}

// ---- version 2

TEST(CgroupTest, AQuotaIsRoundedUp) {
  EXPECT_EQ(of_max("100000 100000\n"), 1U);
  EXPECT_EQ(of_max("100001 100000\n"), 2U);
  EXPECT_EQ(of_max("150000 100000\n"), 2U);
  EXPECT_EQ(of_max("1000 100000\n"), 1U);
  EXPECT_EQ(of_max("800000 100000"), 8U);
  EXPECT_EQ(of_max("25000 10000\n"), 3U);
}

TEST(CgroupTest, MaxIsNoLimit) { EXPECT_EQ(of_max("max 100000\n"), std::nullopt); }

TEST(CgroupTest, WhatMakesNoSenseIsNoLimit) {
  for (const char* text :
       {"", "\n", " ", "0 100000\n", "100000 0\n", "0 0\n", "-1 100000\n", "100000 -1\n", "+5 5\n",
        "100000\n", "lots 100000\n", "100000 often\n", "100000x 100000\n", "1e5 100000\n",
        "100000 100000 100000\n", "99999999999999999999999999 100000\n",
        "100000 99999999999999999999999999\n"}) {
    EXPECT_EQ(of_max(text), std::nullopt) << text;
  }
  EXPECT_EQ(of_max(std::string("100000\0 100000", 14)), std::nullopt);
}

TEST(CgroupTest, HugeNumbersDoNotOverflow) {
  EXPECT_EQ(of_max("18446744073709551615 18446744073709551615\n"), 1U);
  EXPECT_EQ(of_max("18446744073709551615 1\n"), 18446744073709551615U);
  EXPECT_EQ(of_max("18446744073709551615 2\n"), 9223372036854775808U);
  EXPECT_EQ(of_max("1 18446744073709551615\n"), 1U);
}

TEST(CgroupTest, TheLeastOfAllGroupsAboveCounts) {
  const std::string own = "0::/kube/pod/box\n";
  const std::string top = "/sys/fs/cgroup";
  const Files files{{top + "/kube/cpu.max", "600000 100000\n"},
                    {top + "/kube/pod/cpu.max", "250000 100000\n"},
                    {top + "/kube/pod/box/cpu.max", "max 100000\n"},
                    {top + "/kube/pod/box/inner/cpu.max", "100000 100000\n"},
                    {top + "/other/cpu.max", "100000 100000\n"}};
  EXPECT_EQ(cpus(kV2, own, files), 3U);
  Files own_is_less = files;
  own_is_less[top + "/kube/pod/box/cpu.max"] = "100000 50000\n";
  EXPECT_EQ(cpus(kV2, own, own_is_less), 2U);
  Files top_is_less = files;
  top_is_less[top + "/kube/cpu.max"] = "1000 100000\n";
  EXPECT_EQ(cpus(kV2, own, top_is_less), 1U);
  Files garbage_between = files;
  garbage_between[top + "/kube/pod/cpu.max"] = "???";
  EXPECT_EQ(cpus(kV2, own, garbage_between), 6U);
}

TEST(CgroupTest, TheRootGroupAloneHasNoLimit) { EXPECT_EQ(cpus(kV2, "0::/\n", {}), std::nullopt); }

// ---- version 1 and both at once

TEST(CgroupTest, VersionOneHasQuotaAndPeriodInFilesOfTheirOwn) {
  const std::string own = "5:cpuset:/\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/x\n";
  const std::string group = "/sys/fs/cgroup/cpu,cpuacct/docker/abc";
  const auto with = [&](const std::string& quota, const std::string& period) {
    return cpus(kV1, own,
                {{group + "/cpu.cfs_quota_us", quota}, {group + "/cpu.cfs_period_us", period}});
  };
  EXPECT_EQ(with("150000\n", "100000\n"), 2U);
  EXPECT_EQ(with("-1\n", "100000\n"), std::nullopt);
  EXPECT_EQ(with("0\n", "100000\n"), std::nullopt);
  EXPECT_EQ(with("100000\n", "0\n"), std::nullopt);
  EXPECT_EQ(with("what", "ever"), std::nullopt);
  EXPECT_EQ(cpus(kV1, own, {{group + "/cpu.cfs_quota_us", "100000\n"}}), std::nullopt);
  EXPECT_EQ(cpus(kV1, own, {{group + "/cpu.cfs_period_us", "100000\n"}}), std::nullopt);
}

TEST(CgroupTest, VersionOneCountsTheGroupsAboveToo) {
  const std::string top = "/sys/fs/cgroup/cpu,cpuacct";
  const Files files{{top + "/docker/cpu.cfs_quota_us", "300000\n"},
                    {top + "/docker/cpu.cfs_period_us", "100000\n"},
                    {top + "/docker/abc/cpu.cfs_quota_us", "-1\n"},
                    {top + "/docker/abc/cpu.cfs_period_us", "100000\n"}};
  EXPECT_EQ(cpus(kV1, "4:cpu,cpuacct:/docker/abc\n", files), 3U);
}

TEST(CgroupTest, CpusetAndCpuacctAreOtherControllers) {
  const std::string mounts =
      "41 22 0:32 / /cg/cpuacct rw - cgroup cgroup rw,cpuacct\n"
      "42 22 0:33 / /cg/cpuset rw - cgroup cgroup rw,cpuset\n";
  const Files files{{"/cg/cpuacct/a/cpu.cfs_quota_us", "100000"},
                    {"/cg/cpuacct/a/cpu.cfs_period_us", "100000"},
                    {"/cg/cpuset/a/cpu.cfs_quota_us", "100000"},
                    {"/cg/cpuset/a/cpu.cfs_period_us", "100000"}};
  EXPECT_EQ(cpus(mounts, "3:cpuacct:/a\n2:cpuset:/a\n1:cpu:/a\n", files), std::nullopt);
}

TEST(CgroupTest, InAHybridEachVersionHasItsOwnPath) {
  const std::string mounts =
      kV1 + "43 22 0:34 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n";
  const std::string own = "4:cpu,cpuacct:/v1/group\n0::/v2/group\n";
  const std::string v1 = "/sys/fs/cgroup/cpu,cpuacct/v1/group";
  const std::string v2 = "/sys/fs/cgroup/unified/v2/group";
  const Files by_v1{{v1 + "/cpu.cfs_quota_us", "200000"}, {v1 + "/cpu.cfs_period_us", "100000"}};
  EXPECT_EQ(cpus(mounts, own, by_v1), 2U);
  EXPECT_EQ(cpus(mounts, own, {{v2 + "/cpu.max", "300000 100000\n"}}), 3U);
  Files both = by_v1;
  both[v2 + "/cpu.max"] = "100000 100000\n";
  EXPECT_EQ(cpus(mounts, own, both), 1U);
}

// ---- containers

TEST(CgroupTest, AMountOfAGroupShowsItAtItsPoint) {
  // Version 1 without a namespace: the host's path stands in both files.
  const std::string mounts =
      "41 22 0:32 /docker/abc /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n";
  const std::string here = "/sys/fs/cgroup/cpu";
  const Files files{{here + "/cpu.cfs_quota_us", "400000"},
                    {here + "/cpu.cfs_period_us", "100000"},
                    {here + "/inner/cpu.cfs_quota_us", "200000"},
                    {here + "/inner/cpu.cfs_period_us", "100000"}};
  EXPECT_EQ(cpus(mounts, "4:cpu,cpuacct:/docker/abc\n", files), 4U);
  EXPECT_EQ(cpus(mounts, "4:cpu,cpuacct:/docker/abc/inner\n", files), 2U);
  EXPECT_EQ(cpus(mounts, "4:cpu,cpuacct:/docker/abcdef\n", files), std::nullopt) << "another group";
  EXPECT_EQ(cpus(mounts, "4:cpu,cpuacct:/docker\n", files), std::nullopt) << "above the mount";
}

TEST(CgroupTest, AGroupThatIsNotThereStillHasThoseAboveIt) {
  // The host's path inside a container that mounts its own group as the root.
  EXPECT_EQ(cpus(kV2, "0::/docker/abc\n", {{"/sys/fs/cgroup/cpu.max", "200000 100000\n"}}), 2U);
  EXPECT_EQ(cpus(kV2, "0::/gone (deleted)\n", {{"/sys/fs/cgroup/cpu.max", "200000 100000\n"}}), 2U);
}

TEST(CgroupTest, APathOutsideTheNamespaceIsSeenThroughAMountFromOutside) {
  const auto mounted = [](const std::string& root) {
    return "35 22 0:30 " + root + " /cg rw - cgroup2 cgroup2 rw\n";
  };
  const Files files{{"/cg/cpu.max", "200000 100000\n"},
                    {"/cg/other/cpu.max", "100000 100000\n"},
                    {"/cpu.max", "100000 100000\n"},
                    {"/cg/../cpu.max", "100000 100000\n"}};
  EXPECT_EQ(cpus(mounted("/../.."), "0::/../..\n", files), 2U);
  EXPECT_EQ(cpus(mounted("/../.."), "0::/../../other\n", files), 1U);
  // The names between the two are not written anywhere.
  EXPECT_EQ(cpus(mounted("/../.."), "0::/..\n", files), 2U);
  EXPECT_EQ(cpus(mounted("/.."), "0::/\n", files), 2U);
  EXPECT_EQ(cpus(mounted("/.."), "0::/other\n", files), 2U);
  // What the mount shows is not above the process.
  EXPECT_EQ(cpus(mounted("/"), "0::/../..\n", files), std::nullopt);
  EXPECT_EQ(cpus(mounted("/"), "0::/../other\n", files), std::nullopt);
  EXPECT_EQ(cpus(mounted("/../sibling"), "0::/\n", files), std::nullopt);
  EXPECT_EQ(cpus(mounted("/../sibling"), "0::/../other\n", files), std::nullopt);
}

TEST(CgroupTest, SeveralMountsOfAHierarchyAllCount) {
  const std::string mounts =
      "35 22 0:30 /pod /a rw - cgroup2 cgroup2 rw\n"
      "36 22 0:30 / /b rw - cgroup2 cgroup2 rw\n";
  const Files files{{"/a/cpu.max", "500000 100000"}, {"/b/cpu.max", "200000 100000"}};
  EXPECT_EQ(cpus(mounts, "0::/pod\n", files), 2U);
}

// ---- texts

TEST(CgroupTest, MountPointsAndPathsMayHoldAnything) {
  const std::string mounts = R"(35 22 0:30 / /my\040cg\134x rw - cgroup2 none rw)";
  EXPECT_EQ(cpus(mounts, "0::/a:b c\n", {{R"(/my cg\x/a:b c/cpu.max)", "100000 100000"}}), 1U);
  EXPECT_EQ(cpus("35 22 0:30 / / rw - cgroup2 none rw", "0::/a", {{"/a/cpu.max", "1 1"}}), 1U);
  const std::string many =
      "35 22 0:30 / /cg rw shared:1 master:2 propagate_from:3 x - cgroup2 c rw";
  EXPECT_EQ(cpus(many, "0::/a", {{"/cg/a/cpu.max", "1 1"}}), 1U);
  const std::string odd_escapes = R"(35 22 0:30 / /cg\04 rw - cgroup2 none rw)";
  EXPECT_EQ(cpus(odd_escapes, "0::/a", {{R"(/cg\04/a/cpu.max)", "1 1"}}), 1U);
}

TEST(CgroupTest, GarbageInTheTablesIsNoLimit) {
  const Files files{{"/sys/fs/cgroup/cpu.max", "100000 100000"},
                    {"/sys/fs/cgroup/a/cpu.max", "100000 100000"}};
  for (const char* mounts :
       {"", "\n\n", " ", "35", "35 22 0:30 /", "35 22 0:30 / /sys/fs/cgroup",
        "35 22 0:30 / /sys/fs/cgroup rw", "35 22 0:30 / /sys/fs/cgroup rw -",
        "35 22 0:30 / /sys/fs/cgroup rw - ", "35 22 0:30 relative /sys/fs/cgroup rw - cgroup2 c rw",
        "35 22 0:30 /a/.. /sys/fs/cgroup rw - cgroup2 c rw"}) {
    EXPECT_EQ(cpus(mounts, "0::/a\n", files), std::nullopt) << mounts;
  }
  for (const char* own : {"", "\n", "0", "0:", "0::", "0::a", "::/a", "0:x:/a", "1:name=systemd:/a",
                          "0::/a/../a", "0::/./a", "what is this"}) {
    EXPECT_EQ(cpus(kV2, own, files), std::nullopt) << own;
  }
}

TEST(CgroupTest, NoTextMakesItThrow) {
  std::mt19937 random(20260111);
  const std::string pieces[] = {
      "/", "..",      "0::", ":",     "cpu",    ",",   " ",      "\n",
      "-", "cgroup2", "\\",  "\\040", "cgroup", "max", "100000", "35 22 0:30 / /cg rw",
      "\0"};
  const auto some_text = [&] {
    std::string text;
    for (auto n = random() % 40; n > 0; --n) text += pieces[random() % std::size(pieces)];
    return text;
  };
  for (int i = 0; i < 20'000; ++i) {
    EXPECT_NO_THROW((void)cgroup_cpus(
        some_text(), some_text(), [&](const std::string&) { return std::optional(some_text()); }));
  }
}

// ---- this machine

TEST(CpuCountTest, ItIsNoMoreThanTheAffinityMaskHas) {
  EXPECT_GE(cpu_count(), 1U);
  EXPECT_LE(cpu_count(), static_cast<std::size_t>(usable_cpus()));
  EXPECT_EQ(PoolOptions{}.workers, cpu_count());
  cpu_set_t before;
  ASSERT_EQ(sched_getaffinity(0, sizeof before, &before), 0);
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(sched_getcpu(), &one);
  ASSERT_EQ(sched_setaffinity(0, sizeof one, &one), 0);
  EXPECT_EQ(cpu_count(), 1U);
  sched_setaffinity(0, sizeof before, &before);
}

// A control group of the test's own, for as long as it lives.
class OwnGroup {
 public:
  // Of the first of these places that is one of groups, which `proof` of it shows.
  OwnGroup(const std::vector<std::string>& places, const std::string& proof) {
    for (const std::string& place : places) {
      if (access((place + proof).c_str(), F_OK) != 0) continue;
      const std::string path = place + "/brood-test-" + std::to_string(getpid());
      if (mkdir(path.c_str(), 0700) == 0) path_ = path;
      return;
    }
  }
  ~OwnGroup() {
    if (!path_.empty()) test::wait_until([&] { return rmdir(path_.c_str()) == 0; });
  }
  OwnGroup(const OwnGroup&) = delete;
  OwnGroup& operator=(const OwnGroup&) = delete;

  [[nodiscard]] bool exists() const { return !path_.empty(); }
  [[nodiscard]] bool write(const std::string& file, const std::string& text) const {
    const int fd = open((path_ + file).c_str(), O_WRONLY | O_CLOEXEC);
    const bool done =
        fd >= 0 && ::write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());
    if (fd >= 0) close(fd);
    return done;
  }

 private:
  std::string path_;
};

void expect_one_processor_in(const OwnGroup& group) {
  constexpr int kNotMoved = 255;
  const pid_t child = fork();
  if (child == 0) {
    _exit(group.write("/cgroup.procs", "0") ? static_cast<int>(cpu_count()) : kNotMoved);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  if (WEXITSTATUS(status) == kNotMoved) GTEST_SKIP() << "no process may be moved to a group";
  EXPECT_EQ(WEXITSTATUS(status), 1);
}

TEST(CpuCountTest, AQuotaOfARealGroupCounts) {
  if (usable_cpus() < 2) GTEST_SKIP() << "a quota can't be less than one processor";
  const OwnGroup group({"/sys/fs/cgroup", "/sys/fs/cgroup/unified"}, "/cgroup.controllers");
  if (!group.exists()) GTEST_SKIP() << "no control groups of version 2 that this user can make";
  if (!group.write("/cpu.max", "50000 100000")) {
    GTEST_SKIP() << "the groups of this machine have no processor quota in version 2";
  }
  expect_one_processor_in(group);
}

TEST(CpuCountTest, AQuotaOfARealGroupOfVersionOneCounts) {
  if (usable_cpus() < 2) GTEST_SKIP() << "a quota can't be less than one processor";
  const OwnGroup group({"/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct"}, "/cpu.cfs_quota_us");
  if (!group.exists()) GTEST_SKIP() << "no control groups of version 1 that this user can make";
  if (!group.write("/cpu.cfs_quota_us", "50000")) {
    GTEST_SKIP() << "this user may not set a processor quota";
  }
  expect_one_processor_in(group);
}

}  // namespace
}  // namespace brood::sys
