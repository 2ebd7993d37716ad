#pragma once

#include <string>

namespace dlcore {

/// CPUs that the affinity mask and the cgroup's quota allow this process, at least 1.
int allowed_cpus();

/// CPUs that the cgroup of this process and those above it pay for, rounded up; 0 without a quota.
/// The files are looked for below `root`, which is empty but for tests.
int cgroup_cpus(const std::string& root);

}  // namespace dlcore
