// dlcore-bench: every kernel, op and step of the core, checked and then timed as a share of what
// this machine can do. `dlcore-bench --help` has the options, benchmarks/README.md what is shown.

#include <sys/utsname.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <regex>
#include <sstream>
#include <thread>

#include "bench.h"
#include "check.h"
#include "kernels/select.h"
#include "parallel.h"
#include "random.h"

namespace dlcore::bench {

template <class T>
Buffer<T> grid(Index n, std::uint64_t seed, std::type_identity_t<T> limit) {
  Buffer<T> values(n);
  const auto steps = static_cast<std::uint32_t>(64 * limit) + 1;
  philox::Stream words(seed, philox::Purpose::weights, 0, 0);
  for (Index i = 0; i < n; ++i) {
    values.data()[i] = static_cast<T>(words.next() % steps) / 32 - limit;
  }
  return values;
}

template <class T>
std::string compare(const T* found, const T* expected, Index n, double relative, double absolute,
                    const char* what) {
  for (Index i = 0; i < n; ++i) {
    const double f = found[i], e = expected[i];
    // Written so that NaN fails.
    if (std::abs(f - e) <= relative * std::abs(e) + absolute) continue;
    return sentence(what, "[", i, "] is ", f, ", not ", e);
  }
  return "";
}

template Buffer<float> grid(Index, std::uint64_t, float);
template Buffer<double> grid(Index, std::uint64_t, double);
template std::string compare(const float*, const float*, Index, double, double, const char*);
template std::string compare(const double*, const double*, Index, double, double, const char*);

std::vector<Case> all_cases(const Kernels& kernels, const std::vector<int>& threads) {
  std::vector<Case> cases;
  add_step_cases(kernels, threads, &cases);
  add_product_cases(kernels, threads, &cases);
  add_elementwise_cases(kernels, threads, &cases);
  return cases;
}

namespace {

constexpr const char* kHelp =
    R"help(dlcore-bench: check and time every kernel, op and step of dlcore

  --filter REGEX   only cases whose name matches, as in 'dense_forward/784x32|fork_join'
  --list           names of the cases, and stop
  --limits         measure the machine's limits, and stop
  --seconds S      time for each case (0.25)
  --threads LIST   thread counts (1 and all), as in 1,2
  --kernels NAME   instruction set (the best): avx512, avx2, neon, reference
  --json FILE      also write the results there; - is the standard output
  --revision TEXT  kept in the JSON, as in "$(git describe --always --dirty)"
)help";

struct Options {
  std::string filter, json, kernels, revision = "unknown", command;
  double seconds = 0.25;
  std::vector<int> threads;
  bool list = false, limits = false, help = false;
};

Options parse(int count, char** arguments) {
  Options options;
  // Without the folder, which says nothing about the run.
  options.command = std::filesystem::path(arguments[0]).filename().string();
  for (int i = 1; i < count; ++i) options.command.append(" ").append(arguments[i]);
  for (int i = 1; i < count; ++i) {
    const std::string name = arguments[i];
    const auto value = [&]() -> std::string {
      check(i + 1 < count, name, " needs a value");
      return arguments[++i];
    };
    const auto number = [&] {
      const std::string text = value();
      char* end = nullptr;
      const double parsed = std::strtod(text.c_str(), &end);
      check(end != text.c_str() && *end == 0 && parsed > 0, name, " needs a positive number, not ",
            text);
      return parsed;
    };
    if (name == "--filter") {
      options.filter = value();
    } else if (name == "--json") {
      options.json = value();
    } else if (name == "--kernels") {
      options.kernels = value();
    } else if (name == "--revision") {
      options.revision = value();
    } else if (name == "--seconds") {
      options.seconds = number();
    } else if (name == "--threads") {
      std::istringstream list(value());
      for (std::string item; std::getline(list, item, ',');) {
        const int threads = std::atoi(item.c_str());
        check(threads >= 1 && threads <= 1024, "--threads needs counts such as 1,2, not ", item);
        options.threads.push_back(threads);
      }
    } else if (name == "--list") {
      options.list = true;
    } else if (name == "--limits") {
      options.limits = true;
    } else {
      check(name == "--help" || name == "-h", "unknown option ", name, "; --help lists all");
      options.help = true;
    }
  }
  if (options.threads.empty()) {
    options.threads = {1};
    if (default_threads() > 1) options.threads.push_back(default_threads());
  }
  return options;
}

// --- Statistics
// -----------------------------------------------------------------------------------

double quantile(std::vector<double> values, double q) {
  std::sort(values.begin(), values.end());
  const double at = q * static_cast<double>(values.size() - 1);
  const auto below = static_cast<std::size_t>(at);
  const double above = values[std::min(below + 1, values.size() - 1)];
  return values[below] + (at - static_cast<double>(below)) * (above - values[below]);
}

struct Result {
  const Case* of = nullptr;
  std::string wrong;  ///< why it was not timed
  Index repetitions = 0, calls = 0;
  double least = 0, median = 0;  ///< seconds of one call
  double spread = 0;             ///< distance of the quartiles / median
  double share = 0;              ///< median of work / limit, each with the bursts beside it
  Peer peer;
  double peer_median = 0;              ///< seconds of one call
  double ratio = 0, ratio_spread = 0;  ///< of the peer's time to ours, turn by turn
};

double limit_of(const Case& c, Limits& limits) {
  switch (c.yardstick) {
    case Yardstick::fma: return limits.fma(c.threads);
    case Yardstick::fma_f64: return limits.fma_f64(c.threads);
    case Yardstick::read: return limits.read(c.threads);
    case Yardstick::bandwidth:
      // Above a megabyte the kernels store past the caches: so does the copy, whatever is better.
      if (c.bytes <= Index{1} << 20) return limits.copy(c.threads, c.bytes);
      return std::max(limits.copy(c.threads, c.bytes), limits.streaming_copy(c.threads, c.bytes));
    case Yardstick::none: break;
  }
  return 0;
}

Result measure(const Case& c, Limits& limits, double seconds) {
  // A repetition is a millisecond at least: the clock and the first, cold call do not count then.
  constexpr double kRepetition = 2e-3;
  // Beside a peer the caches hold the other's data at first, which a longer turn hides.
  constexpr double kTurn = 10e-3;
  constexpr Index kLeast = 5, kMost = 1000;
  Result result;
  result.of = &c;
  const Prepared prepared = c.prepare();
  const bool has_peer = static_cast<bool>(prepared.peer.run);
  const double repetition = has_peer ? kTurn : kRepetition;
  result.wrong = prepared.check();
  if (!result.wrong.empty()) return result;
  result.calls = 1;
  double taken = prepared.run(1);
  while (taken < repetition) {
    const double factor = std::clamp(1.2 * repetition / std::max(taken, 1e-9), 2.0, 100.0);
    result.calls = static_cast<Index>(static_cast<double>(result.calls) * factor);
    taken = prepared.run(result.calls);
  }
  result.peer = prepared.peer;
  const auto time_of = [&](const auto& run) {
    if (has_peer && result.calls > 1) run(1);
    return run(result.calls) / static_cast<double>(result.calls);
  };
  std::vector<double> times, shares, peer_times, ratios;
  const double begin = now();
  double before = limit_of(c, limits);
  while (result.repetitions < kLeast || (now() - begin < seconds && result.repetitions < kMost)) {
    const bool peer_first = result.repetitions % 2 == 1;
    if (has_peer && peer_first) peer_times.push_back(time_of(prepared.peer.run));
    const double each = time_of(prepared.run);
    if (has_peer && !peer_first) peer_times.push_back(time_of(prepared.peer.run));
    if (has_peer) ratios.push_back(peer_times.back() / each);
    const double after = limit_of(c, limits);
    times.push_back(each);
    if (before + after > 0) shares.push_back(c.work / each / (0.5 * (before + after)));
    before = after;
    ++result.repetitions;
  }
  result.least = quantile(times, 0);
  result.median = quantile(times, 0.5);
  result.spread = (quantile(times, 0.75) - quantile(times, 0.25)) / result.median;
  if (!shares.empty()) result.share = quantile(shares, 0.5);
  if (has_peer) {
    result.peer_median = quantile(peer_times, 0.5);
    result.ratio = quantile(ratios, 0.5);
    result.ratio_spread = (quantile(ratios, 0.75) - quantile(ratios, 0.25)) / result.ratio;
  }
  return result;
}

// --- Output
// ---------------------------------------------------------------------------------------

std::string format(const char* pattern, double value) {
  char text[64];
  std::snprintf(text, sizeof(text), pattern, value);
  return text;
}

std::string time_text(double seconds) {
  if (seconds < 1e-6) return format("%.1f ns", seconds * 1e9);
  if (seconds < 1e-3) return format("%.2f us", seconds * 1e6);
  return seconds < 1 ? format("%.2f ms", seconds * 1e3) : format("%.2f s ", seconds);
}

const char* unit_of(Yardstick yardstick) {
  switch (yardstick) {
    case Yardstick::fma:
    case Yardstick::fma_f64: return "GFLOP/s";
    case Yardstick::none: return "";
    default: return "GB/s";
  }
}

void print(std::ostream& out, const Result& r) {
  char line[256];
  if (!r.wrong.empty()) {
    out << r.of->name << ": WRONG, not timed: " << r.wrong << std::endl;
    return;
  }
  const std::string rate =
      r.of->work == 0 ? ""
                      : format("%9.1f ", r.of->work / r.median * 1e-9) + unit_of(r.of->yardstick);
  const std::string share = r.share == 0 ? "" : format("%6.1f %%", 100 * r.share);
  const std::string examples =
      r.of->examples == 0 ? "" : format("%12.0f /s", r.of->examples / r.median);
  const std::string peer = r.ratio == 0 ? "" : format("%6.2fx ", r.ratio) + r.peer.name;
  std::snprintf(line, sizeof(line), "%-48s %2d %11s %11s %5.1f %% %-17s %-9s%s%s",
                r.of->name.c_str(), r.of->threads, time_text(r.median).c_str(),
                time_text(r.least).c_str(), 100 * r.spread, rate.c_str(), share.c_str(),
                examples.c_str(), peer.c_str());
  out << line << std::endl;
}

std::string quoted(const std::string& text) {
  std::string result(1, '"');
  for (const char c : text) {
    if (c == '"' || c == '\\') result += '\\';
    result += static_cast<unsigned char>(c) < 32 ? ' ' : c;
  }
  return result.append(1, '"');
}

/// First value of a key of /proc/cpuinfo, or of a file of one line.
std::string fact(const std::string& path, const std::string& key = "") {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (key.empty()) return line;
    if (line.rfind(key, 0) == 0) return line.substr(std::min(line.size(), line.find(':') + 2));
  }
  return "unknown";
}

std::string json_machine() {
  utsname system{};
  uname(&system);
  std::string sets;
  for (const Kernels* set : available_kernels()) {
    sets.append(sets.empty() ? "" : ", ").append(quoted(set->name));
  }
  std::ostringstream out;
  out << "{\"cpu\": " << quoted(fact("/proc/cpuinfo", "model name"))
      << ", \"cores\": " << std::thread::hardware_concurrency()
      << ", \"threads\": " << default_threads() << ", \"instruction_sets\": [" << sets
      << "], \"caches\": {";
  for (const char* index : {"0", "2", "3"}) {
    const std::string folder = std::string("/sys/devices/system/cpu/cpu0/cache/index") + index;
    out << (*index == '0' ? "" : ", ") << quoted(std::string("L").append(fact(folder + "/level")))
        << ": " << quoted(fact(folder + "/size"));
  }
  out << "}, \"system\": "
      << quoted(std::string(system.sysname) + " " + system.release + " " + system.machine) << "}";
  return out.str();
}

struct MeasuredLimit {
  std::string name;
  int threads;
  double rate;
};

/// The fastest of several bursts of each limit.
std::vector<MeasuredLimit> measure_limits(Limits& limits, const std::vector<int>& threads) {
  std::vector<MeasuredLimit> measured;
  const auto fastest = [](auto burst) {
    double rate = 0;
    for (int i = 0; i < 9; ++i) rate = std::max(rate, burst());
    return rate;
  };
  for (const int count : threads) {
    measured.push_back({"fma", count, fastest([&] { return limits.fma(count); })});
    measured.push_back({"fma_f64", count, fastest([&] { return limits.fma_f64(count); })});
    measured.push_back({"read", count, fastest([&] { return limits.read(count); })});
    measured.push_back({"copy", count, fastest([&] { return limits.copy(count); })});
    measured.push_back(
        {"streaming_copy", count, fastest([&] { return limits.streaming_copy(count); })});
  }
  return measured;
}

void print(std::ostream& out, const Limits& limits, const std::vector<MeasuredLimit>& measured) {
  out << "limits of this machine (" << limits.name() << "):\n";
  for (const MeasuredLimit& m : measured) {
    char line[128];
    std::snprintf(line, sizeof(line), "  %-15s %2d thread%s %8.1f %s", m.name.c_str(), m.threads,
                  m.threads == 1 ? " " : "s", m.rate * 1e-9,
                  m.name.starts_with("fma") ? "GFLOP/s" : "GB/s");
    out << line << "\n";
  }
  out << std::flush;
}

void write_json(std::ostream& out, const Options& options, const Kernels& kernels,
                const std::vector<MeasuredLimit>& limits, const std::vector<Result>& results) {
  char date[32];
  const std::time_t time = std::time(nullptr);
  std::strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%SZ", std::gmtime(&time));
  out.precision(6);
  out << "{\n\"schema\": 1,\n\"tool\": \"dlcore-bench\",\n\"date\": " << quoted(date)
      << ",\n\"command\": " << quoted(options.command)
      << ",\n\"revision\": " << quoted(options.revision)
      << ",\n\"versions\": {\"dlcore\": " << quoted(DLCORE_VERSION)
      << ", \"compiler\": " << quoted(__VERSION__) << "},\n\"machine\": " << json_machine()
      << ",\n\"kernels\": " << quoted(kernels.name) << ",\n\"limits\": [";
  for (std::size_t i = 0; i < limits.size(); ++i) {
    out << (i == 0 ? "\n" : ",\n") << "{\"name\": " << quoted(limits[i].name)
        << ", \"threads\": " << limits[i].threads << ", \"rate\": " << limits[i].rate << "}";
  }
  out << "\n],\n\"results\": [";
  for (std::size_t i = 0; i < results.size(); ++i) {
    const Result& r = results[i];
    out << (i == 0 ? "\n" : ",\n") << "{\"name\": " << quoted(r.of->name)
        << ", \"threads\": " << r.of->threads;
    if (!r.wrong.empty()) {
      out << ", \"wrong\": " << quoted(r.wrong) << "}";
      continue;
    }
    out << ", \"seconds\": {\"min\": " << r.least << ", \"median\": " << r.median
        << ", \"spread\": " << r.spread << "}, \"repetitions\": " << r.repetitions
        << ", \"calls\": " << r.calls;
    if (r.of->work > 0) {
      out << ", \"unit\": " << quoted(unit_of(r.of->yardstick))
          << ", \"rate\": " << r.of->work / r.median * 1e-9 << ", \"share\": " << r.share;
    }
    if (r.of->examples > 0) out << ", \"examples_per_second\": " << r.of->examples / r.median;
    if (r.ratio > 0) {
      out << ", \"peer\": " << quoted(r.peer.name) << ", \"peer_way\": " << quoted(r.peer.way)
          << ", \"peer_seconds\": " << r.peer_median << ", \"ratio\": " << r.ratio
          << ", \"ratio_spread\": " << r.ratio_spread;
    }
    out << "}";
  }
  out << "\n]\n}\n";
  out.flush();
}

int run(const Options& options) {
  set_kernels(options.kernels);
  const Kernels& set = kernels();
  std::vector<Case> cases = all_cases(set, options.threads);
  const std::regex filter(options.filter);
  std::erase_if(cases, [&](const Case& c) { return !std::regex_search(c.name, filter); });
  check(!cases.empty(), "--filter ", options.filter, " matches no case; --list has their names");
  if (options.list) {
    for (const Case& c : cases) std::cout << c.name << " " << c.threads << "\n";
    return 0;
  }
  // The table goes beside a JSON on the standard output.
  std::ostream& text = options.json == "-" ? std::cerr : std::cout;
  std::ofstream file;
  if (!options.json.empty() && options.json != "-") {
    file.open(options.json);
    check(file.good(), "--json ", options.json, " cannot be written");
  }
  Limits limits(set);
  const std::vector<MeasuredLimit> measured = measure_limits(limits, options.threads);
  print(text, limits, measured);
  std::vector<Result> results;
  int wrong = 0;
  if (!options.limits) {
    text << "case, threads, time of a call (median, least, spread), rate, share of the limit\n";
    for (const Case& c : cases) {
      results.push_back(measure(c, limits, options.seconds));
      print(text, results.back());
      wrong += results.back().wrong.empty() ? 0 : 1;
    }
  }
  if (options.json == "-") write_json(std::cout, options, set, measured, results);
  if (file.is_open()) {
    write_json(file, options, set, measured, results);
    check(file.good(), "--json ", options.json, " could not be written");
  }
  if (wrong > 0) text << wrong << " of " << results.size() << " cases are wrong\n";
  return wrong > 0 ? 1 : 0;
}

}  // namespace
}  // namespace dlcore::bench

int main(int count, char** arguments) {
  try {
    const dlcore::bench::Options options = dlcore::bench::parse(count, arguments);
    if (options.help) {
      std::cout << dlcore::bench::kHelp;
      return 0;
    }
    return dlcore::bench::run(options);
  } catch (const std::regex_error& error) {
    std::cerr << "dlcore-bench: --filter is no regular expression: " << error.what() << "\n";
  } catch (const std::exception& error) {
    std::cerr << "dlcore-bench: " << error.what() << "\n";
  }
  return 2;
}
