#pragma once

#include <functional>

#include "tensor.h"

namespace dlcore::curves {

/// Runs `task(worker, i)` for i = 0 .. count - 1 on `threads` threads (at least one; worker is the
/// thread's number). Tasks write only to their own slots, so results do not depend on the number of
/// threads. `poll` runs on the calling thread about every 100 ms; once it returns false, no further
/// task starts and fan_out returns false. The first exception of a task is thrown again.
bool fan_out(Index count, int threads, const std::function<void(int, Index)>& task,
             const std::function<bool()>& poll);

}  // namespace dlcore::curves
