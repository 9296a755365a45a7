// SPDX-License-Identifier: Apache-2.0
#include "graph/inference/extent.hpp"

#include <algorithm>
#include <limits>
#include <numeric>

namespace moptcore::inline v0::graph {
namespace {

constexpr std::size_t kMaxTerms = 12;
constexpr std::size_t kMaxDegree = 8;
constexpr int kMaxWeight = 48;

constexpr int kSum = 100;
constexpr int kDifference = 101;
constexpr int kProduct = 102;

std::int64_t floor_quotient(std::int64_t a, std::int64_t b) {
  const std::int64_t q = a / b;
  return q - (a % b != 0 && (a < 0) != (b < 0));
}

}  // namespace

int ExtentTable::weight(const Polynomial& polynomial) const {
  int total = 0;
  for (const Term& term : polynomial) {
    ++total;
    for (const std::int32_t atom : term.atoms) total += atoms_[atom].weight;
  }
  return total;
}

// What is too large becomes one unknown extent, the same one whenever it is computed again.
Extent ExtentTable::intern(const std::optional<Polynomial>& polynomial, Key key) {
  if (!polynomial || polynomial->size() > kMaxTerms || weight(*polynomial) > kMaxWeight) {
    const auto [found, added] = large_.emplace(key, Extent{});
    if (added) {
      const auto [kind, a, b] = key;
      const bool positive = kind != kDifference && lower_bound(a).value_or(-1) >= 0 &&
                            lower_bound(b).value_or(-1) >= 0;
      const Extent made = fresh();
      atoms_[polynomials_[made.id][0].atoms[0]].bounded = positive;
      large_[key] = made;
      return made;
    }
    return found->second;
  }
  const auto [found, added] =
      ids_.emplace(*polynomial, static_cast<std::int32_t>(polynomials_.size()));
  if (added) polynomials_.push_back(*polynomial);
  return {found->second};
}

Extent ExtentTable::known(std::int64_t value) {
  Polynomial polynomial;
  if (value != 0) polynomial.push_back({{}, value});
  return intern(polynomial, {});
}

Extent ExtentTable::of_atom(std::int32_t atom) {
  return intern(Polynomial{{{atom}, 1}}, Key{-1, {atom}, {}});
}

Extent ExtentTable::symbol(const std::string& name) {
  const auto [found, added] = symbols_.emplace(name, static_cast<std::int32_t>(atoms_.size()));
  if (added) {
    Atom atom;
    atom.name = name;
    atoms_.push_back(atom);
    taken_.insert(name);
  }
  return of_atom(found->second);
}

Extent ExtentTable::fresh() {
  Atom atom;
  atom.named = false;
  atoms_.push_back(atom);
  return of_atom(static_cast<std::int32_t>(atoms_.size()) - 1);
}

std::optional<ExtentTable::Polynomial> ExtentTable::sum(const Polynomial& a, const Polynomial& b,
                                                        std::int64_t factor) {
  Polynomial result;
  auto left = a.begin();
  auto right = b.begin();
  while (left != a.end() || right != b.end()) {
    Term term;
    if (right == b.end() || (left != a.end() && left->atoms < right->atoms)) {
      term = *left++;
    } else {
      term.atoms = right->atoms;
      if (__builtin_mul_overflow(right->factor, factor, &term.factor)) return std::nullopt;
      if (left != a.end() && left->atoms == right->atoms) {
        if (__builtin_add_overflow(term.factor, left->factor, &term.factor)) return std::nullopt;
        ++left;
      }
      ++right;
    }
    if (term.factor != 0) result.push_back(std::move(term));
  }
  return result;
}

std::optional<ExtentTable::Polynomial> ExtentTable::times(const Polynomial& a,
                                                          const Polynomial& b) {
  Polynomial result;
  for (const Term& left : a) {
    Polynomial row;
    for (const Term& right : b) {
      Term term;
      if (__builtin_mul_overflow(left.factor, right.factor, &term.factor)) return std::nullopt;
      if (left.atoms.size() + right.atoms.size() > kMaxDegree) return std::nullopt;
      std::ranges::merge(left.atoms, right.atoms, std::back_inserter(term.atoms));
      row.push_back(std::move(term));
    }
    std::ranges::sort(row, {}, &Term::atoms);
    auto next = sum(result, row, 1);
    if (!next || next->size() > kMaxTerms) return std::nullopt;
    result = std::move(*next);
  }
  return result;
}

Extent ExtentTable::add(Extent a, Extent b) {
  if (a > b) std::swap(a, b);
  return intern(sum(polynomials_[a.id], polynomials_[b.id], 1), {kSum, a, b});
}

Extent ExtentTable::subtract(Extent a, Extent b) {
  return intern(sum(polynomials_[a.id], polynomials_[b.id], -1), {kDifference, a, b});
}

Extent ExtentTable::multiply(Extent a, Extent b) {
  if (a > b) std::swap(a, b);
  return intern(times(polynomials_[a.id], polynomials_[b.id]), {kProduct, a, b});
}

Extent ExtentTable::product(const Extents& all) {
  Extent result = known(1);
  for (const Extent extent : all) result = multiply(result, extent);
  return result;
}

// Division of polynomials by the greatest terms; nothing where a rest is left.
std::optional<ExtentTable::Polynomial> ExtentTable::quotient(Polynomial a, const Polynomial& b) {
  const auto greater = [](const Term& x, const Term& y) {
    if (x.atoms.size() != y.atoms.size()) return x.atoms.size() < y.atoms.size();
    return x.atoms > y.atoms;  // smaller atoms first: lexicographic within a degree
  };
  Polynomial result;
  const Term& lead = *std::ranges::max_element(b, greater);
  for (std::size_t step = 0; !a.empty(); ++step) {
    if (step > kMaxTerms) return std::nullopt;
    const Term& top = *std::ranges::max_element(a, greater);
    Term part;
    if (lead.factor == -1 ? top.factor == std::numeric_limits<std::int64_t>::min()
                          : top.factor % lead.factor != 0) {
      return std::nullopt;
    }
    part.factor = top.factor / lead.factor;
    if (!std::ranges::includes(top.atoms, lead.atoms)) return std::nullopt;
    std::ranges::set_difference(top.atoms, lead.atoms, std::back_inserter(part.atoms));
    const auto taken = times({part}, b);
    if (!taken) return std::nullopt;
    auto rest = sum(a, *taken, -1);
    if (!rest || rest->size() > 2 * kMaxTerms) return std::nullopt;
    a = std::move(*rest);
    auto next = sum(result, {part}, 1);
    if (!next) return std::nullopt;
    result = std::move(*next);
  }
  return result;
}

std::optional<Extent> ExtentTable::divide_exactly(Extent a, Extent b) {
  if (is(b, 0)) return std::nullopt;
  const auto divided = quotient(polynomials_[a.id], polynomials_[b.id]);
  if (!divided) return std::nullopt;
  return intern(*divided, {static_cast<int>(Function::quotient), a, b});
}

Extent ExtentTable::apply(Function function, Extent a, Extent b) {
  const Key key{static_cast<int>(function), a, b};
  const auto found = functions_.find(key);
  if (found != functions_.end()) return of_atom(found->second);
  const auto low_a = lower_bound(a);
  const auto low_b = lower_bound(b);
  Atom atom;
  atom.is_function = true;
  atom.function = function;
  atom.a = a;
  atom.b = b;
  atom.weight = 1 + weight(polynomials_[a.id]) + weight(polynomials_[b.id]);
  atom.named = is_named(a) && is_named(b);
  const bool positive = low_a.value_or(-1) >= 0 && low_b.value_or(-1) >= 0;
  atom.bounded = positive;
  if (function == Function::maximum) {
    atom.bounded = low_a || low_b;
    atom.lower = std::max(low_a.value_or(std::numeric_limits<std::int64_t>::min()),
                          low_b.value_or(std::numeric_limits<std::int64_t>::min()));
  } else if (function == Function::minimum) {
    atom.bounded = low_a && low_b;
    if (atom.bounded) atom.lower = std::min(*low_a, *low_b);
  } else if (function == Function::broadcast) {
    atom.bounded = true;
  }
  if (atom.weight > kMaxWeight / 2) {
    atom = {};
    atom.named = false;
    atom.bounded = positive;
  }
  const auto id = static_cast<std::int32_t>(atoms_.size());
  atoms_.push_back(atom);
  functions_.emplace(key, id);
  return of_atom(id);
}

Extent ExtentTable::floor_divide(Extent a, Extent b) {
  if (a == b && !is(b, 0)) return known(1);
  const auto divisor = value(b);
  if (divisor == 1) return a;
  if (const auto exact = divide_exactly(a, b)) return *exact;
  if (divisor && *divisor > 1) {
    // Whole multiples of the divisor come out of the quotient.
    Polynomial whole;
    Polynomial rest;
    for (const Term& term : polynomials_[a.id]) {
      const std::int64_t q = floor_quotient(term.factor, *divisor);
      if (q != 0) whole.push_back({term.atoms, q});
      if (term.factor - q * *divisor != 0) {
        rest.push_back({term.atoms, term.factor - q * *divisor});
      }
    }
    const Key key{static_cast<int>(Function::quotient), a, b};
    if (rest.empty()) return intern(whole, key);
    if (rest.size() == 1 && rest[0].atoms.empty()) return intern(whole, key);
    std::int64_t common = *divisor;
    for (const Term& term : rest) common = std::gcd(common, term.factor);
    for (Term& term : rest) term.factor /= common;
    std::int64_t below = *divisor / common;
    Extent left = intern(rest, key);
    // (x // a + c) // b is (x + a * c) // (a * b).
    const Term& last = rest.back();
    if ((rest.size() == 1 || (rest.size() == 2 && rest[0].atoms.empty())) && last.factor == 1 &&
        last.atoms.size() == 1) {
      const Atom atom = atoms_[last.atoms[0]];
      const auto inner =
          atom.is_function && atom.function == Function::quotient ? value(atom.b) : std::nullopt;
      std::int64_t joined = 0;
      if (inner && !__builtin_mul_overflow(*inner, below, &joined)) {
        const std::int64_t offset = rest.size() == 2 ? rest[0].factor : 0;
        left = add(atom.a, multiply(known(offset), known(*inner)));
        return add(intern(whole, key), floor_divide(left, known(joined)));
      }
    }
    return add(intern(whole, key), apply(Function::quotient, left, known(below)));
  }
  return apply(Function::quotient, a, b);
}

Extent ExtentTable::ceil_divide(Extent a, Extent b) { return floor_divide(add(a, add(b, -1)), b); }

Extent ExtentTable::truncated_divide(Extent a, Extent b) {
  const auto x = value(a);
  const auto y = value(b);
  if (x && y && *y != 0 && !(*y == -1 && *x == std::numeric_limits<std::int64_t>::min())) {
    return known(*x / *y);
  }
  if (lower_bound(a).value_or(-1) >= 0 && lower_bound(b).value_or(-1) >= 1) {
    return floor_divide(a, b);
  }
  if (const auto exact = divide_exactly(a, b)) return *exact;
  return apply(Function::truncated, a, b);
}

Extent ExtentTable::modulo(Extent a, Extent b) {
  const auto x = value(a);
  const auto y = value(b);
  if (x && y && *y != 0 && *y != -1) {
    const std::int64_t rest = *x % *y;
    return known(rest != 0 && (rest < 0) != (*y < 0) ? rest + *y : rest);
  }
  if (divide_exactly(a, b)) return known(0);
  return apply(Function::modulo, a, b);
}

Extent ExtentTable::maximum(Extent a, Extent b) {
  const auto difference = lower_bound(subtract(a, b));
  if (a == b || difference.value_or(-1) >= 0) return a;
  if (lower_bound(subtract(b, a)).value_or(-1) >= 0) return b;
  return apply(Function::maximum, std::min(a, b), std::max(a, b));
}

Extent ExtentTable::minimum(Extent a, Extent b) {
  if (a == b || lower_bound(subtract(a, b)).value_or(-1) >= 0) return b;
  if (lower_bound(subtract(b, a)).value_or(-1) >= 0) return a;
  return apply(Function::minimum, std::min(a, b), std::max(a, b));
}

Extent ExtentTable::broadcast(Extent a, Extent b) {
  if (a == b || is(b, 1)) return a;
  if (is(a, 1)) return b;
  if (value(a)) return a;
  if (value(b)) return b;
  return apply(Function::broadcast, std::min(a, b), std::max(a, b));
}

std::optional<std::int64_t> ExtentTable::value(Extent extent) const {
  const Polynomial& polynomial = polynomials_[extent.id];
  if (polynomial.empty()) return 0;
  if (polynomial.size() == 1 && polynomial[0].atoms.empty()) return polynomial[0].factor;
  return std::nullopt;
}

std::optional<std::int64_t> ExtentTable::lower_bound(Extent extent) const {
  std::int64_t total = 0;
  for (const Term& term : polynomials_[extent.id]) {
    std::int64_t bound = term.factor;
    for (const std::int32_t atom : term.atoms) {
      if (term.factor < 0 || !atoms_[atom].bounded || atoms_[atom].lower < 0) return std::nullopt;
      if (__builtin_mul_overflow(bound, atoms_[atom].lower, &bound)) return std::nullopt;
    }
    if (__builtin_add_overflow(total, bound, &total)) return std::nullopt;
  }
  return total;
}

bool ExtentTable::differ(Extent a, Extent b) {
  if (a == b) return false;
  const Extent forth = subtract(a, b);
  if (const auto known_difference = value(forth)) return *known_difference != 0;
  return lower_bound(forth).value_or(0) > 0 || lower_bound(subtract(b, a)).value_or(0) > 0;
}

bool ExtentTable::is_named(Extent extent) const {
  for (const Term& term : polynomials_[extent.id]) {
    for (const std::int32_t atom : term.atoms) {
      if (!atoms_[atom].named) return false;
    }
  }
  return true;
}

std::string ExtentTable::text(Extent extent) {
  if (const auto found = texts_.find(extent.id); found != texts_.end()) return found->second;
  static constexpr const char* kNames[] = {"", "trunc", "mod", "max", "min", "broadcast"};
  const Polynomial polynomial = polynomials_[extent.id];
  std::string result;
  const auto term_text = [&](const Term& term) {
    std::string piece;
    std::int64_t factor = term.factor;
    if (factor < 0 || !result.empty()) piece = factor < 0 ? "-" : "+";
    const bool one = factor == 1 || factor == -1;
    if (term.atoms.empty() || !one) {
      std::string digits = std::to_string(factor);
      piece += factor < 0 ? digits.substr(1) : digits;
      if (!term.atoms.empty()) piece += "*";
    }
    for (std::size_t i = 0; i < term.atoms.size(); ++i) {
      if (i > 0) piece += "*";
      const Atom atom = atoms_[term.atoms[i]];
      if (!atom.name.empty()) {
        piece += atom.name;
      } else if (!atom.is_function) {
        std::string made;
        do made = "_d" + std::to_string(named_fresh_++);
        while (taken_.contains(made));
        atoms_[term.atoms[i]].name = made;
        piece += made;
      } else if (atom.function == Function::quotient) {
        piece += "((" + text(atom.a) + ")//(" + text(atom.b) + "))";
      } else {
        piece += std::string(kNames[static_cast<int>(atom.function)]) + "(" + text(atom.a) + "," +
                 text(atom.b) + ")";
      }
    }
    return piece;
  };
  // The constant, which has no atoms and so comes first, is written last.
  for (const Term& term : polynomial) {
    if (!term.atoms.empty()) result += term_text(term);
  }
  for (const Term& term : polynomial) {
    if (term.atoms.empty()) result += term_text(term);
  }
  if (polynomial.empty()) result = "0";
  const bool plain = polynomial.size() == 1 && polynomial[0].factor == 1 &&
                     polynomial[0].atoms.size() == 1 && !atoms_[polynomial[0].atoms[0]].is_function;
  if (!plain) {
    while (!taken_.insert(result).second) result += "'";
  }
  texts_[extent.id] = result;
  return result;
}

}  // namespace moptcore::inline v0::graph
