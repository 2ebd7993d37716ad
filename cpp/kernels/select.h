#pragma once

#include <string>
#include <vector>

#include "kernels/kernels.h"

namespace dlcore {

/// Instruction sets this CPU can run, best first, reference last.
std::vector<const Kernels*> available_kernels();

/// The one in use: the first available, or the one named in DLCORE_KERNELS or by set_kernels.
/// A name that is not available is a ValueError that lists those that are.
const Kernels& kernels();

/// Takes the one of this name from now on ("" for the default); networks already built keep theirs
/// until their next plan.
void set_kernels(const std::string& name);

/// Products of bfloat16, or null where this CPU has none.
const Bf16Kernels* bf16_kernels();

}  // namespace dlcore
