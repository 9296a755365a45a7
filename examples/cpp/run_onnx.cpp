// SPDX-License-Identifier: Apache-2.0
// Runs an ONNX file: run_onnx model.onnx [--threads n] [--runs n] [--size symbol=extent]
// [--profile] [--input name=file]. Inputs without a file of raw elements are filled with random
// numbers, and extents that the model leaves open are 1 unless --size says otherwise.
#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <map>
#include <random>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include <unistd.h>

#include <moptcore/runtime/runtime.hpp>

namespace graph = moptcore::graph;
using graph::ElementType;
using graph::Tensor;

namespace {

struct Arguments {
  std::string model;
  std::map<std::string, std::string> files;
  std::map<std::string, std::int64_t> sizes;
  int threads = 0;
  int runs = 10;
  bool profile = false;
};

std::pair<std::string, std::string> split(const std::string& text) {
  const auto at = text.find('=');
  if (at == std::string::npos) throw std::invalid_argument("expected name=value, got " + text);
  return {text.substr(0, at), text.substr(at + 1)};
}

constexpr auto kUsage =
    "usage: run_onnx model.onnx [--threads n] [--runs n] [--size symbol=extent] "
    "[--input name=file] [--profile]";

std::int64_t number(const std::string& option, const std::string& text, std::int64_t least) {
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < least ||
      value > 1'000'000'000) {
    throw std::invalid_argument(option + " must be a number >= " + std::to_string(least) +
                                ", got " + text);
  }
  return value;
}

Arguments parse(int argc, char** argv) {
  Arguments arguments;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const auto next = [&]() -> std::string {
      if (++i >= argc) throw std::invalid_argument(word + " needs a value");
      return argv[i];
    };
    if (word == "--threads") arguments.threads = static_cast<int>(number(word, next(), 1));
    else if (word == "--runs") arguments.runs = static_cast<int>(number(word, next(), 0));
    else if (word == "--profile") arguments.profile = true;
    else if (word == "--size") {
      const auto [name, extent] = split(next());
      arguments.sizes[name] = number(word + ' ' + name, extent, 0);
    } else if (word == "--input") {
      arguments.files.insert(split(next()));
    } else if (word.starts_with("-")) {
      throw std::invalid_argument("unknown option " + word + '\n' + kUsage);
    } else if (!arguments.model.empty()) {
      throw std::invalid_argument("one model is run at a time, got " + word + " as well");
    } else {
      arguments.model = word;
    }
  }
  return arguments;
}

// Names on the command line that the model does not have are mistakes.
void check_names(const moptcore::Session& session, const Arguments& arguments) {
  std::set<std::string> inputs;
  std::set<std::string> symbols;
  for (const graph::ValueInfo& input : session.inputs()) {
    inputs.insert(input.name);
    if (!input.type.dimensions) continue;
    for (const graph::Dimension& dimension : *input.type.dimensions) {
      if (!dimension.is_known()) symbols.insert(dimension.symbol);
    }
  }
  const auto list = [](const std::set<std::string>& names) {
    std::string text;
    for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
    return text.empty() ? std::string("none") : text;
  };
  for (const auto& [name, file] : arguments.files) {
    if (inputs.contains(name)) continue;
    throw std::invalid_argument("--input must name one of " + list(inputs) + ", got " + name);
  }
  for (const auto& [name, extent] : arguments.sizes) {
    if (symbols.contains(name)) continue;
    throw std::invalid_argument("--size must name one of " + list(symbols) + ", got " + name);
  }
}

Tensor make_input(const graph::ValueInfo& input, const Arguments& arguments) {
  moptcore::Shape shape;
  if (input.type.dimensions) {
    for (const graph::Dimension& dimension : *input.type.dimensions) {
      const auto size = arguments.sizes.find(dimension.symbol);
      shape.push_back(dimension.is_known()            ? dimension.value
                      : size != arguments.sizes.end() ? size->second
                                                      : 1);
    }
  }
  Tensor tensor(input.type.element, shape);
  if (const auto file = arguments.files.find(input.name); file != arguments.files.end()) {
    std::ifstream stream(file->second, std::ios::binary);
    if (!stream) throw std::runtime_error(file->second + " cannot be opened");
    stream.read(static_cast<char*>(tensor.mutable_raw()), tensor.bytes());
    if (stream.gcount() != tensor.bytes()) {
      throw std::runtime_error(file->second + " must have " + std::to_string(tensor.bytes()) +
                               " bytes");
    }
    return tensor;
  }
  std::mt19937 random(0);
  std::normal_distribution<float> gauss;
  if (tensor.type() == ElementType::float32) {
    for (std::int64_t i = 0; i < tensor.size(); ++i)
      tensor.mutable_data<float>()[i] = gauss(random);
  } else {
    // Small numbers are valid whatever integers mean.
    std::fill_n(static_cast<char*>(tensor.mutable_raw()), tensor.bytes(), 0);
  }
  return tensor;
}

void print_statistics(const std::string& name, const Tensor& tensor) {
  std::cout << name << ' ' << graph::name(tensor.type()) << tensor.shape();
  if (tensor.type() == ElementType::float32 && tensor.size() > 0) {
    const auto values = tensor.values<float>();
    double sum = 0;
    for (const float value : values) sum += value;
    const auto [least, greatest] = std::minmax_element(values.begin(), values.end());
    std::cout << " mean " << sum / static_cast<double>(values.size()) << " min " << *least
              << " max " << *greatest;
  }
  std::cout << '\n';
}

int run(const Arguments& arguments) {
  using Clock = std::chrono::steady_clock;
  const auto milliseconds = [](Clock::time_point from) {
    return std::chrono::duration<double, std::milli>(Clock::now() - from).count();
  };
  moptcore::runtime::SessionOptions options;
  options.threads = arguments.threads;
  auto start = Clock::now();
  const moptcore::Session session(std::filesystem::path(arguments.model), options);
  const double loading = milliseconds(start);
  check_names(session, arguments);
  graph::Values inputs;
  for (const graph::ValueInfo& input : session.inputs()) {
    inputs[input.name] = make_input(input, arguments);
  }
  start = Clock::now();
  const graph::Values outputs = session.run(inputs);
  const double first = milliseconds(start);
  for (const auto& [name, value] : outputs) {
    if (value.is_tensor()) print_statistics(name, value.tensor());
  }
  std::vector<double> times;
  for (int i = 0; i < arguments.runs; ++i) {
    start = Clock::now();
    const graph::Values again = session.run(inputs);
    times.push_back(milliseconds(start));
  }
  std::sort(times.begin(), times.end());
  std::cout << std::fixed << std::setprecision(3) << "load " << loading << " ms, first run "
            << first << " ms";
  if (!times.empty()) {
    std::cout << ", median of " << times.size() << " runs " << times[times.size() / 2] << " ms";
  }
  std::cout << '\n';
  if (arguments.profile) std::cout << '\n' << session.profile(inputs).table();
  return EXIT_SUCCESS;
}

}  // namespace

int main(int argc, char** argv) {
  // OpenMP's threads spin while they wait, which hurts where other programs want the same cores.
  // How long is read when the program is loaded.
  if (std::getenv("OMP_WAIT_POLICY") == nullptr && std::getenv("GOMP_SPINCOUNT") == nullptr) {
    ::setenv("GOMP_SPINCOUNT", "1000", 1);
    ::execv("/proc/self/exe", argv);
  }
  try {
    const Arguments arguments = parse(argc, argv);
    if (arguments.model.empty()) throw std::invalid_argument(kUsage);
    return run(arguments);
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return EXIT_FAILURE;
  }
}
