// SPDX-License-Identifier: Apache-2.0
#include "graph/channels/recipe.hpp"

#include <algorithm>
#include <bit>
#include <type_traits>
#include <unordered_map>

#include <moptcore/graph/channels.hpp>

#include "graph/channels/shapes.hpp"
#include "graph/scope.hpp"
#include "pack/json.hpp"

namespace moptcore::inline v0::graph {
namespace channels {
namespace {

// Two FNV-1a hashes of 64 bits that begin differently and meet different bytes.
class Hash {
 public:
  void add(std::uint64_t value) {
    for (int i = 0; i < 8; ++i, value >>= 8) byte(static_cast<unsigned char>(value));
  }
  void add(std::string_view text) {
    add(text.size());
    for (const char c : text) byte(static_cast<unsigned char>(c));
  }
  [[nodiscard]] std::string hexadecimal() const {
    constexpr std::string_view kDigits = "0123456789abcdef";
    std::string text;
    for (const std::uint64_t half : {a_, b_}) {
      for (int shift = 60; shift >= 0; shift -= 4) text += kDigits[half >> shift & 15];
    }
    return text;
  }

 private:
  void byte(unsigned char c) {
    constexpr std::uint64_t kPrime = 0x100000001B3U;
    a_ = (a_ ^ c) * kPrime;
    b_ = std::rotl(b_ ^ (c + 0x9EU), 23) * 0x9E3779B97F4A7C15U;
  }
  std::uint64_t a_ = 0xCBF29CE484222325U;
  std::uint64_t b_ = 0x84222325CBF29CE4U;
};

class Fingerprint {
 public:
  explicit Fingerprint(const Model& model) {
    for (const auto& [domain, version] : model.opsets) {
      hash_.add(domain);
      hash_.add(static_cast<std::uint64_t>(version));
    }
    add(model.graph);
  }

  [[nodiscard]] std::string hexadecimal() const { return hash_.hexadecimal(); }

 private:
  // Names are told apart by where they occur first, not by their letters.
  void name(const std::string& text) {
    if (text.empty()) {
      hash_.add(0);
      return;
    }
    hash_.add(numbers_.emplace(text, numbers_.size() + 1).first->second);
  }

  void add(const ValueType& type) {
    hash_.add(static_cast<std::uint64_t>(type.kind));
    hash_.add(static_cast<std::uint64_t>(type.element));
    hash_.add(type.dimensions ? type.dimensions->size() + 1 : 0);
    if (!type.dimensions) return;
    for (const Dimension& dimension : *type.dimensions) {
      hash_.add(static_cast<std::uint64_t>(dimension.value));
    }
  }

  void add(const Tensor& tensor) {
    hash_.add(static_cast<std::uint64_t>(tensor.type()));
    hash_.add(static_cast<std::uint64_t>(tensor.rank()));
    for (const std::int64_t extent : tensor.shape()) {
      hash_.add(static_cast<std::uint64_t>(extent));
    }
    // Integers decide about shapes.
    const auto values = tensor.size() <= 256 ? integers_of(tensor) : std::nullopt;
    for (const std::int64_t value : values.value_or(std::vector<std::int64_t>())) {
      hash_.add(static_cast<std::uint64_t>(value));
    }
  }

  void add(const Graph& graph) {
    // Not the extents of inputs: whoever cuts channels may choose others than whoever loads.
    for (const ValueInfo& input : graph.inputs) {
      if (graph.initializers.contains(input.name)) continue;
      name(input.name);
      hash_.add(static_cast<std::uint64_t>(input.type.element));
      hash_.add(input.type.dimensions ? input.type.dimensions->size() + 1 : 0);
    }
    hash_.add(graph.nodes.size());
    for (const Node& node : graph.nodes) {
      hash_.add(node.op_type);
      hash_.add(node.domain);
      hash_.add(node.inputs.size());
      for (const std::string& input : node.inputs) {
        name(input);
        const auto constant = graph.initializers.find(input);
        if (constant != graph.initializers.end()) add(constant->second);
      }
      hash_.add(node.outputs.size());
      for (const std::string& output : node.outputs) name(output);
      std::vector<const Attribute*> attributes;
      for (const Attribute& attribute : node.attributes) attributes.push_back(&attribute);
      std::ranges::sort(attributes, {}, [](const Attribute* each) { return each->name; });
      for (const Attribute* attribute : attributes) add(*attribute);
    }
    for (const ValueInfo& output : graph.outputs) name(output.name);
  }

  void add(const Attribute& attribute) {
    hash_.add(attribute.name);
    hash_.add(attribute.value.index());
    std::visit(
        [this](const auto& value) {
          using T = std::decay_t<decltype(value)>;
          if constexpr (std::is_same_v<T, std::int64_t>) {
            hash_.add(static_cast<std::uint64_t>(value));
          } else if constexpr (std::is_same_v<T, float>) {
            hash_.add(std::bit_cast<std::uint32_t>(value));
          } else if constexpr (std::is_same_v<T, std::string>) {
            hash_.add(value);
          } else if constexpr (std::is_same_v<T, Tensor> || std::is_same_v<T, ValueType>) {
            add(value);
          } else if constexpr (std::is_same_v<T, Subgraph>) {
            add(*value);
          } else {
            hash_.add(value.size());
            for (const auto& each : value) {
              using Each = std::decay_t<decltype(each)>;
              if constexpr (std::is_same_v<Each, std::int64_t>) {
                hash_.add(static_cast<std::uint64_t>(each));
              } else if constexpr (std::is_same_v<Each, float>) {
                hash_.add(std::bit_cast<std::uint32_t>(each));
              } else if constexpr (std::is_same_v<Each, std::string>) {
                hash_.add(each);
              } else if constexpr (std::is_same_v<Each, Subgraph>) {
                add(*each);
              } else {
                add(each);
              }
            }
          }
        },
        attribute.value);
  }

  Hash hash_;
  std::unordered_map<std::string, std::uint64_t> numbers_;
};

constexpr auto kRead = "graph.Recipe.from_json";
constexpr std::string_view kFormat = "moptcore.channels";
constexpr std::size_t kMostText = std::size_t{1} << 26;
constexpr std::int64_t kMostUnits = std::int64_t{1} << 22;

}  // namespace

std::string fingerprint_of(const Model& model) { return Fingerprint(model).hexadecimal(); }

}  // namespace channels

std::string Recipe::to_json() const {
  std::string out = "{\"format\":\"";
  out += channels::kFormat;
  out += "\",\"version\":1,\"fingerprint\":";
  pack::put_string(out, fingerprint);
  out += ",\"groups\":{";
  const char* between = "\n";
  for (const auto& [name, group] : groups) {
    out += between;
    pack::put_string(out, name);
    out += ":{\"units\":" + std::to_string(group.units) + ",\"kept\":";
    pack::put_array(out, group.kept);
    out += '}';
    between = ",\n";
  }
  out += "}}\n";
  return out;
}

Recipe Recipe::from_json(std::string_view json) {
  using channels::kRead;
  check<FormatError>(json.size() <= channels::kMostText, kRead,
                     "a recipe must have at most 2^26 bytes", json.size());
  pack::Scanner scanner(json, kRead, "a recipe must be JSON");
  const auto refuse = [](const std::string& path, std::string_view rule, const std::string& got) {
    throw FormatError(error_text(kRead, path + " " + std::string(rule), got));
  };
  Recipe recipe;
  bool format = false;
  bool version = false;
  bool print = false;
  bool groups = false;
  scanner.object([&](const std::string& key) {
    if (key == "format") {
      const std::string got = scanner.string();
      if (got != channels::kFormat)
        refuse("$.format", "must be moptcore.channels", pack::shown(got));
      format = true;
    } else if (key == "version") {
      const std::uint64_t got = scanner.number();
      if (got != 1) refuse("$.version", "must be 1", std::to_string(got));
      version = true;
    } else if (key == "fingerprint") {
      recipe.fingerprint = scanner.string();
      print = true;
    } else if (key == "groups") {
      groups = true;
      scanner.object([&](const std::string& name) {
        const std::string path = "$.groups[" + pack::shown(name) + "]";
        Group group;
        bool units = false;
        bool kept = false;
        scanner.object([&](const std::string& field) {
          if (field == "units") {
            units = true;
            const std::uint64_t got = scanner.number();
            if (got < 1 || got > static_cast<std::uint64_t>(channels::kMostUnits)) {
              refuse(path + ".units", "must be in [1, 2^22]", std::to_string(got));
            }
            group.units = static_cast<std::int64_t>(got);
          } else if (field == "kept") {
            kept = true;
            scanner.array([&] {
              const std::uint64_t got = scanner.number();
              if (got >= static_cast<std::uint64_t>(channels::kMostUnits) ||
                  (!group.kept.empty() && static_cast<std::int64_t>(got) <= group.kept.back())) {
                refuse(path + ".kept", "must ascend within [0, 2^22)", std::to_string(got));
              }
              group.kept.push_back(static_cast<std::int64_t>(got));
            });
          } else {
            refuse(path, "must have units and kept only", pack::shown(field));
          }
        });
        if (!units || !kept) refuse(path, "must have units and kept", "less");
        if (group.kept.empty()) refuse(path + ".kept", "must have one unit or more", "none");
        if (group.kept.back() >= group.units) {
          refuse(path + ".kept", "must be below units", std::to_string(group.kept.back()));
        }
        recipe.groups.emplace(name, std::move(group));
      });
    } else {
      refuse("$", "must have format, version, fingerprint and groups only", pack::shown(key));
    }
  });
  scanner.end();
  if (!format || !version || !print || !groups) {
    refuse("$", "must have format, version, fingerprint and groups", "less");
  }
  return recipe;
}

}  // namespace moptcore::inline v0::graph
