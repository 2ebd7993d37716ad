#include "trainee.h"

#include <algorithm>
#include <utility>

#include "check.h"

namespace dlcore::cuda {

Trainee::Trainee(DeviceNetwork& network, const Dataset& data, const FitOptions& options,
                 std::optional<std::size_t> number)
    : network(network),
      given(data),
      options(options),
      number(number),
      training(std::in_place, network, options.optimizer),
      state(network.state()),
      examples(options.examples(data)),
      batch(options.batch(data)),
      steps_per_epoch(options.steps_per_epoch(data)),
      epochs(options, examples, steps_per_epoch, number.has_value() ? "group" : "graph"),
      weight(data.weight == nullptr ? 0 : data.x.rows),
      order(examples),
      pinned_order(examples),
      order_of_epoch(static_cast<std::size_t>(examples)),
      next_order(options.shuffle ? order_of_epoch.size() : 0) {
  check(data.x.rows <= Index{1} << 32, "fit: ", data.x.rows,
        " examples are more than the 2**32 that one fit on a GPU can order");
  if (options.early_stopping.has_value() && options.early_stopping->restore_best) {
    best = DeviceMemory<float>(state.parameters.size());
  }
}

void Trainee::order_epoch() {
  if (next_order_step == state.step) {
    std::swap(order_of_epoch, next_order);
    next_order_step = -1;
  } else {
    epochs.order(state.step, order_of_epoch.data());
  }
  std::transform(order_of_epoch.begin(), order_of_epoch.end(), pinned_order.data(),
                 [](Index row) { return static_cast<std::uint32_t>(row); });
}

void Trainee::order_next(Index steps) {
  if (!options.shuffle) return;
  next_order_step = state.step + steps;
  epochs.order(next_order_step, next_order.data());
}

StepInput Trainee::input(Index step_in_epoch, double width) const {
  StepInput input;
  input.number = step_in_epoch;
  input.begin = step_in_epoch * batch;
  input.rows = static_cast<std::int32_t>(std::min(batch, examples - input.begin));
  input.random_step = static_cast<std::uint64_t>(start.step + step_in_epoch);
  double sum = static_cast<double>(input.rows);
  if (given.weight != nullptr) {
    sum = 0;
    for (Index j = input.begin; j < input.begin + input.rows; ++j) {
      sum += given.weight[order_of_epoch[static_cast<std::size_t>(j)]];
    }
  }
  input.share = sum > 0 ? 1 / (sum * width) : 0;
  input.update =
      ops::update_of<float>(options.optimizer, epochs.learning_rate(epoch, step_in_epoch), 1,
                            start.optimizer_step + step_in_epoch + 1);
  return input;
}

}  // namespace dlcore::cuda
