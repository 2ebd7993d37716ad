#include "cpus.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <thread>

#ifdef __linux__
#include <sched.h>
#endif

namespace dlcore {
namespace {

/// CPUs of one folder; 0 without a quota there.
double quota_of(const std::string& folder, bool version2) {
  std::string quota;
  double period = 0;
  if (version2) {
    std::ifstream(folder + "/cpu.max") >> quota >> period;
  } else {
    std::ifstream(folder + "/cpu.cfs_quota_us") >> quota;
    std::ifstream(folder + "/cpu.cfs_period_us") >> period;
  }
  // "max" in version 2, -1 in version 1
  const double value = std::atof(quota.c_str());
  return value > 0 && period > 0 ? value / period : 0;
}

/// The least quota of `path`, such as /a/b, and of the groups above it, up to that of the mount. In
/// a container the path may be one of the host's, which does not exist in it: its own group is the
/// mount then.
double least_quota(const std::string& mount, std::string path, bool version2) {
  double least = 0;
  for (;;) {
    while (!path.empty() && path.back() == '/') path.pop_back();
    const double quota = quota_of(mount + path, version2);
    if (quota > 0) least = least > 0 ? std::min(least, quota) : quota;
    if (path.empty()) return least;
    path.erase(path.rfind('/'));
  }
}

}  // namespace

int cgroup_cpus(const std::string& root) {
  const std::string mount = root + "/sys/fs/cgroup";
  double least = 0;
  const auto ask = [&](const std::string& folder, const std::string& path, bool version2) {
    const double quota = least_quota(folder, path, version2);
    if (quota > 0) least = least > 0 ? std::min(least, quota) : quota;
  };
  std::ifstream groups(root + "/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    // number:controllers:path, as in "0::/user.slice" (version 2) and "4:cpu,cpuacct:/user.slice"
    const auto first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos || line.compare(second + 1, 1, "/") != 0) continue;
    // By append: of "," + ... GCC 12 at -O3 warns for no reason (its bug 105651).
    std::string controllers(",");
    controllers.append(line, first + 1, second - first - 1).append(",");
    const std::string path = line.substr(second + 1);
    if (controllers == ",,") {
      ask(mount, path, true);
      ask(mount + "/unified", path, true);  // beside version 1
    } else if (controllers.find(",cpu,") != std::string::npos) {
      ask(mount + "/cpu", path, false);
      ask(mount + "/" + controllers.substr(1, controllers.size() - 2), path, false);
    }
  }
  return static_cast<int>(std::ceil(least));
}

int allowed_cpus() {
  int cpus = 0;
#ifdef __linux__
  // Asked every time, because it may change; a quota seldom does, and takes reading files.
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) cpus = CPU_COUNT(&set);
#endif
  static const int all = static_cast<int>(std::thread::hardware_concurrency());
  static const int quota = cgroup_cpus("");
  if (cpus == 0) cpus = all;
  if (quota > 0) cpus = std::min(cpus, quota);
  return std::max(1, cpus);
}

}  // namespace dlcore
