// SPDX-License-Identifier: Apache-2.0
// Extents as expressions of symbols: integer polynomials over symbols, quotients and a few opaque
// functions, in a normal form, each held once, so that equal expressions are equal numbers.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <vector>

namespace moptcore::inline v0::graph {

/// One expression of an ExtentTable.
struct Extent {
  std::int32_t id = -1;
  friend bool operator==(Extent, Extent) = default;
  friend auto operator<=>(Extent, Extent) = default;
};

using Extents = std::vector<Extent>;

class ExtentTable {
 public:
  /// Functions that are kept as they are: truncated division, remainder of the sign of the divisor,
  /// what two extents broadcast to.
  enum class Function : std::uint8_t { quotient, truncated, modulo, maximum, minimum, broadcast };

  Extent known(std::int64_t value);
  /// >= 0, equal wherever the name is the same.
  Extent symbol(const std::string& name);
  /// An extent >= 0 of which nothing is known, different from every other.
  Extent fresh();

  Extent add(Extent a, Extent b);
  Extent subtract(Extent a, Extent b);
  Extent multiply(Extent a, Extent b);
  /// Rounded down, as shapes divide; the divisor is > 0.
  Extent floor_divide(Extent a, Extent b);
  Extent ceil_divide(Extent a, Extent b);
  /// Rounded to zero, as Div of ONNX rounds integers.
  Extent truncated_divide(Extent a, Extent b);
  Extent modulo(Extent a, Extent b);
  Extent maximum(Extent a, Extent b);
  Extent minimum(Extent a, Extent b);
  Extent broadcast(Extent a, Extent b);
  Extent product(const Extents& all);

  Extent add(Extent a, std::int64_t b) { return add(a, known(b)); }
  Extent multiply(Extent a, std::int64_t b) { return multiply(a, known(b)); }
  Extent floor_divide(Extent a, std::int64_t b) { return floor_divide(a, known(b)); }

  /// a / b where the division leaves no rest whatever the symbols are.
  std::optional<Extent> divide_exactly(Extent a, Extent b);

  [[nodiscard]] std::optional<std::int64_t> value(Extent extent) const;
  [[nodiscard]] bool is(Extent extent, std::int64_t value) const {
    return this->value(extent) == value;
  }
  /// A value that the expression is never below, where there is one.
  [[nodiscard]] std::optional<std::int64_t> lower_bound(Extent extent) const;
  /// True where the two differ whatever the symbols are.
  [[nodiscard]] bool differ(Extent a, Extent b);
  /// True where nothing but names of the model occurs in it.
  [[nodiscard]] bool is_named(Extent extent) const;
  /// "2*H+1"; different expressions have different texts.
  [[nodiscard]] std::string text(Extent extent);

 private:
  struct Term {
    std::vector<std::int32_t> atoms;  // sorted; repeated for powers
    std::int64_t factor = 0;
    friend auto operator<=>(const Term&, const Term&) = default;
  };
  using Polynomial = std::vector<Term>;  // sorted by atoms, no factor is 0
  struct Atom {
    std::string name;  // of a symbol; empty: a function, or a fresh extent
    Function function{};
    Extent a, b;
    int weight = 1;
    bool named = true;
    bool is_function = false;
    std::int64_t lower = 0;
    bool bounded = true;
  };
  using Key = std::tuple<int, Extent, Extent>;

  Extent intern(const std::optional<Polynomial>& polynomial, Key key);
  Extent apply(Function function, Extent a, Extent b);
  Extent of_atom(std::int32_t atom);
  [[nodiscard]] int weight(const Polynomial& polynomial) const;
  static std::optional<Polynomial> sum(const Polynomial& a, const Polynomial& b,
                                       std::int64_t factor);
  static std::optional<Polynomial> times(const Polynomial& a, const Polynomial& b);
  static std::optional<Polynomial> quotient(Polynomial a, const Polynomial& b);

  std::vector<Atom> atoms_;
  std::vector<Polynomial> polynomials_;
  std::map<Polynomial, std::int32_t> ids_;
  std::map<std::string, std::int32_t> symbols_;
  std::map<Key, std::int32_t> functions_;  // atoms
  std::map<Key, Extent> large_;            // what has grown too large to be an expression
  std::map<std::int32_t, std::string> texts_;
  std::set<std::string> taken_;
  std::int64_t named_fresh_ = 0;
};

}  // namespace moptcore::inline v0::graph
