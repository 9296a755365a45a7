// SPDX-License-Identifier: Apache-2.0
#include <moptcore/pack/encoding.hpp>

#include <moptcore/core/copy.hpp>
#include <moptcore/core/parallel.hpp>
#include <moptcore/core/pool.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <sstream>

#include "checksum.hpp"
#include "grid.hpp"
#include "layout.hpp"
#include "rans.hpp"
#include "stream.hpp"

namespace moptcore::inline v0::pack {
namespace {

constexpr auto kEncode = "pack.encode";
constexpr std::uint8_t kVersion = 1;
// A reader that allocates the tensor first is led on by at most this factor.
constexpr std::int64_t kMostExpansion = 1024;
constexpr std::int64_t kTiny = 4096;
constexpr std::int64_t kGrain = std::int64_t{1} << 16;

static_assert(static_cast<int>(DType::float64) == 0 && static_cast<int>(DType::boolean) == 12,
              "the numbers of dtypes are part of the format");

// ---- Choosing -----------------------------------------------------------------------------------

struct Codebook {
  Bytes elements;  // distinct, ascending
  Bytes symbols;
  int count = 0;
};

std::uint64_t load_word(const std::uint8_t* data, std::int64_t index, int width) {
  std::uint64_t word = 0;
  std::memcpy(&word, data + index * width, static_cast<std::size_t>(width));
  return word;
}

// Bits of a number of `dtype` as a key whose unsigned order is that of the numbers.
std::uint64_t order_key(std::uint64_t word, DType dtype) {
  const int bits = bit_width(dtype);
  const std::uint64_t sign = std::uint64_t{1} << (bits - 1);
  const std::uint64_t all = sign | (sign - 1);
  if (is_floating(dtype)) return (word & sign) != 0 ? ~word & all : word | sign;
  const bool is_signed = dtype >= DType::int64 && dtype <= DType::int8;
  return is_signed ? word ^ sign : word;
}

// None where there are more than `most` distinct elements.
std::optional<Codebook> find_codebook(const std::uint8_t* data, std::int64_t n, DType dtype,
                                      int most) {
  const int width = bit_width(dtype) / 8;
  // A hash table at most a quarter full; numbers differ mostly in their upper bits.
  constexpr int kSlotBits = 10;
  std::array<std::uint64_t, 1 << kSlotBits> keys;
  std::array<std::int16_t, 1 << kSlotBits> ids;
  ids.fill(-1);
  std::vector<std::uint64_t> distinct;
  Codebook book;
  book.symbols.resize(static_cast<std::size_t>(n));
  for (std::int64_t i = 0; i < n; ++i) {
    const std::uint64_t word = load_word(data, i, width);
    auto slot = static_cast<std::size_t>((word * 0x9E3779B97F4A7C15u) >> (64 - kSlotBits));
    while (ids[slot] >= 0 && keys[slot] != word) slot = (slot + 1) % keys.size();
    if (ids[slot] < 0) {
      if (static_cast<int>(distinct.size()) == most) return std::nullopt;
      keys[slot] = word;
      ids[slot] = static_cast<std::int16_t>(distinct.size());
      distinct.push_back(word);
    }
    book.symbols[static_cast<std::size_t>(i)] = static_cast<std::uint8_t>(ids[slot]);
  }
  std::vector<std::uint8_t> by_value(distinct.size());
  for (std::size_t i = 0; i < by_value.size(); ++i) by_value[i] = static_cast<std::uint8_t>(i);
  std::sort(by_value.begin(), by_value.end(), [&](std::uint8_t a, std::uint8_t b) {
    return order_key(distinct[a], dtype) < order_key(distinct[b], dtype);
  });
  std::array<std::uint8_t, 256> rank{};
  book.count = static_cast<int>(distinct.size());
  book.elements.resize(distinct.size() * static_cast<std::size_t>(width));
  for (std::size_t i = 0; i < by_value.size(); ++i) {
    rank[by_value[i]] = static_cast<std::uint8_t>(i);
    std::memcpy(book.elements.data() + i * static_cast<std::size_t>(width), &distinct[by_value[i]],
                static_cast<std::size_t>(width));
  }
  for (std::uint8_t& symbol : book.symbols) symbol = rank[symbol];
  return book;
}

// The tensor as encoders see it.
struct Source {
  const std::uint8_t* data;
  std::int64_t n;
  DType dtype;
  const Shape* shape;
  std::optional<Codebook> codebook;
  std::optional<Grid> grid;

  [[nodiscard]] int width() const { return bit_width(dtype) / 8; }
  [[nodiscard]] std::int64_t last() const { return shape->empty() ? 1 : shape->back(); }
  [[nodiscard]] std::int64_t columns() const {
    return shape->rank() < 2 || (*shape)[0] == 0 ? n : n / (*shape)[0];
  }

  // What a layout chooses from: elements, or the symbols that stand for them.
  [[nodiscard]] Words words(Values values) const {
    if (values == Values::codebook) {
      int zero = codebook->count;  // no symbol
      for (int s = 0; s < codebook->count; ++s) {
        if (load_word(codebook->elements.data(), s, width()) == 0) zero = s;
      }
      return {codebook->symbols.data(), n, 1, static_cast<std::uint64_t>(zero & 255)};
    }
    if (values == Values::grid) {
      return {grid->symbols.data(), n, 1, static_cast<std::uint64_t>(-grid->low)};
    }
    return {data, n, width(), 0};
  }

  [[nodiscard]] bool has_zero(Values values) const {
    if (values != Values::codebook) return true;
    for (int s = 0; s < codebook->count; ++s) {
      if (load_word(codebook->elements.data(), s, width()) == 0) return true;
    }
    return false;
  }

  [[nodiscard]] int symbol_width(Values values) const {
    return values == Values::codebook ? symbol_bits(std::max(codebook->count - 1, 0)) : grid->bits;
  }
};

Bytes prefix(DType dtype, const Shape& shape, Layout layout, Values values) {
  Bytes out{kVersion, static_cast<std::uint8_t>(dtype),
            static_cast<std::uint8_t>(static_cast<int>(layout) * 16 + static_cast<int>(values)),
            static_cast<std::uint8_t>(shape.rank())};
  for (const std::int64_t extent : shape) put_varint(out, static_cast<std::uint64_t>(extent));
  return out;
}

void finish(Bytes& out, std::int64_t dense) {
  const auto least = static_cast<std::size_t>((dense - 1) / kMostExpansion + 1);
  if (dense > 0 && out.size() + 4 < least) out.resize(least - 4);
  put_checksum(out);
}

// `nonzero` keeps the coded elements of the layouts that store those which are not zero.
Bytes write(const Source& source, Layout layout, Values values, std::pair<int, int> group,
            Coder coder, Bytes& nonzero) {
  Bytes out = prefix(source.dtype, *source.shape, layout, values);
  if (layout == Layout::nm) {
    put_varint(out, static_cast<std::uint64_t>(group.first));
    put_varint(out, static_cast<std::uint64_t>(group.second));
  }
  if (values == Values::codebook) {
    put_varint(out, static_cast<std::uint64_t>(source.codebook->count));
    put_bytes(out, source.codebook->elements);
  } else if (values == Values::grid) {
    const Grid& grid = *source.grid;
    out.push_back(static_cast<std::uint8_t>(grid.bits));
    put_varint(out, static_cast<std::uint64_t>(-grid.low));
    put_varint(out, static_cast<std::uint64_t>(grid.count));
    put_varint(out, static_cast<std::uint64_t>(grid.inner));
    put_elements(out, grid.scales, scale_width(source.dtype), true, coder);
  }
  const Words words = source.words(values);
  Bytes stored;
  ByteSpan kept(words.data, static_cast<std::size_t>(words.count * words.width));
  switch (layout) {
    case Layout::dense: break;
    case Layout::bitmap:
      put_stream(out, mask_of(words), 8, coder);
      kept = stored = nonzero_of(words);
      break;
    case Layout::csr: {
      const Rows rows = rows_of(words, source.columns());
      put_varint(out, rows.counts.size());
      put_stream(out, rows.counts, 8, coder);
      put_varint(out, rows.gaps.size());
      put_stream(out, rows.gaps, 8, coder);
      kept = stored = nonzero_of(words);
      break;
    }
    case Layout::nm: {
      Groups groups = groups_of(words, group.first, group.second);
      const int bits = place_bits(group.second);
      put_stream(out, groups.places,
                 one_symbol(group.first, group.second) ? group.first * bits : bits, coder);
      stored = std::move(groups.words);
      kept = stored;
      break;
    }
  }
  const bool shared = layout == Layout::bitmap || layout == Layout::csr;
  Bytes own;
  Bytes& coded = shared ? nonzero : own;
  if (coded.empty()) {
    if (values != Values::raw) put_stream(coded, kept, source.symbol_width(values), coder);
    else put_elements(coded, kept, words.width, is_floating(source.dtype), coder);
  }
  put_bytes(out, coded);
  finish(out, byte_count(source.dtype, source.n));
  return out;
}

std::int64_t count_negative_zeros(const Source& source) {
  if (!is_floating(source.dtype)) return 0;
  const std::uint64_t sign = std::uint64_t{1} << (bit_width(source.dtype) - 1);
  std::int64_t count = 0;
  for (std::int64_t i = 0; i < source.n; ++i) {
    count += load_word(source.data, i, source.width()) == sign ? 1 : 0;
  }
  return count;
}

// What was found, naming the elements -0.0: products with a mask have them, and nobody sees them.
std::string found_text(const Source& source, std::string found) {
  const std::int64_t count = count_negative_zeros(source);
  if (count == 0) return found;
  return std::move(found) + ", with " + std::to_string(count) +
         " elements -0.0, which are not zero here: use prune.apply_mask(w, mask), which writes +0, "
         "instead of w * mask";
}

std::string group_text(int n, int m) { return std::to_string(n) + ':' + std::to_string(m); }

// The group that Layout::nm shall use, or none where the tensor has no such groups.
std::optional<std::pair<int, int>> group_of(const Source& source, Values values,
                                            const Encoding& encoding) {
  const Words words = source.words(values);
  const auto found = find_groups(words, source.last(), encoding.m);
  if (!found || encoding.n == 0) return found;
  return found->first <= encoding.n ? std::optional(std::pair(encoding.n, encoding.m))
                                    : std::nullopt;
}

void prepare(Source& source, const Encoding& encoding) {
  if (encoding.any_values || encoding.values == Values::codebook) {
    source.codebook = find_codebook(source.data, source.n, source.dtype, 256);
    check(source.codebook || encoding.any_values, kEncode,
          "a tensor for codebook must have at most 256 distinct elements, got more");
  }
  if (encoding.any_values || encoding.values == Values::grid) {
    const int bits = encoding.bits == 0 ? 8 : encoding.bits;
    source.grid = find_grid(source.data, source.dtype, *source.shape, bits);
    if (!source.grid && !encoding.any_values) {
      check<DTypeError>(is_floating(source.dtype), kEncode, "a tensor for a grid must be of floats",
                        name(source.dtype));
      std::ostringstream shape;
      shape << "shape " << *source.shape;
      throw Error(error_text(kEncode,
                             "every element for int" + std::to_string(bits) +
                                 " must equal scale * q with at most 2^" + std::to_string(bits) +
                                 " consecutive integers q and a scale for the tensor, for each "
                                 "index of an axis or for 16 to 256 elements of the last axis",
                             found_text(source, shape.str())));
    }
  }
}

Bytes smallest(const Source& source, const Encoding& encoding) {
  Bytes best;
  const auto consider = [&best](Bytes&& made) {
    if (best.empty() || made.size() < best.size()) best = std::move(made);
  };
  for (const Values values : {Values::raw, Values::codebook, Values::grid}) {
    if (encoding.any_values ? (values == Values::codebook && !source.codebook) ||
                                  (values == Values::grid && !source.grid)
                            : values != encoding.values) {
      continue;
    }
    // Symbols say the same in an eighth of the bytes; only what is tiny pays for no table at all.
    if (encoding.any_values && values == Values::raw && source.n > kTiny &&
        (source.codebook || source.grid)) {
      continue;
    }
    Bytes nonzero;
    const bool has_zero = source.has_zero(values);
    const std::int64_t zeros =
        has_zero ? source.n - count_nonzero(source.words(values)) : std::int64_t{0};
    for (const Layout layout : {Layout::dense, Layout::bitmap, Layout::csr, Layout::nm}) {
      if (!encoding.any_layout && layout != encoding.layout) continue;
      if (encoding.any_layout) {
        // With many zeros among elements the layouts below say all that repeats, and much sooner.
        const bool many = values == Values::raw && source.n > kTiny && zeros * 4 >= source.n;
        if (layout == Layout::dense && many) continue;
        // Fewer zeros than these never pay for saying where they are.
        if (layout == Layout::bitmap && zeros * 64 < source.n) continue;
        if (layout == Layout::csr && zeros * 2 < source.n) continue;
        if (layout == Layout::nm && zeros * 4 < source.n) continue;
      }
      // Without a zero, all words are stored whatever the layout: dense says it in fewer bytes.
      if (!has_zero && layout != Layout::dense) {
        if (!encoding.any_layout)
          consider(write(source, Layout::dense, values, {}, encoding.coder, nonzero));
        continue;
      }
      std::pair<int, int> group{0, 0};
      if (layout == Layout::nm) {
        const auto found = group_of(source, values, encoding);
        if (!found) {
          if (!encoding.any_layout) {
            const std::string rule =
                encoding.n == 0
                    ? "a tensor for nm must have groups of 2, 4, 8 or 16 elements of the last axis "
                      "with a zero in each"
                    : "every " + std::to_string(encoding.m) +
                          " elements of the last axis must have at most " +
                          std::to_string(encoding.n) + " that are not zero for " +
                          group_text(encoding.n, encoding.m);
            throw Error(
                error_text(kEncode, rule, found_text(source, encoding.n == 0 ? "none" : "more")));
          }
          continue;
        }
        group = *found;
      }
      consider(write(source, layout, values, group, encoding.coder, nonzero));
    }
  }
  return best;
}

// ---- Reading ------------------------------------------------------------------------------------

struct Header {
  DType dtype = DType::float32;
  Shape shape;
  Layout layout = Layout::dense;
  Values values = Values::raw;
  std::int64_t n = 0;
  std::int64_t dense = 0;
};

Header read_header(Cursor& cursor, std::size_t size) {
  const int version = cursor.u8();
  check<FormatError>(version == kVersion, kDecode, "the version of the format must be 1", version);
  Header header;
  const int dtype = cursor.u8();
  check<FormatError>(dtype <= static_cast<int>(DType::boolean), kDecode,
                     "the number of a dtype must be at most 12", dtype);
  header.dtype = static_cast<DType>(dtype);
  const int kind = cursor.u8();
  check<FormatError>(kind / 16 <= static_cast<int>(Layout::nm), kDecode,
                     "the number of a layout must be at most 3", kind / 16);
  check<FormatError>(kind % 16 <= static_cast<int>(Values::grid), kDecode,
                     "the number of a kind of values must be at most 2", kind % 16);
  header.layout = static_cast<Layout>(kind / 16);
  header.values = static_cast<Values>(kind % 16);
  const int rank = cursor.u8();
  check<FormatError>(rank <= kMaxRank, kDecode, "a tensor must have at most 16 dimensions", rank);
  const std::int64_t most = static_cast<std::int64_t>(size) * kMostExpansion;
  for (int axis = 0; axis < rank; ++axis) {
    header.shape.push_back(static_cast<std::int64_t>(
        cursor.varint(std::numeric_limits<std::int64_t>::max(), "an extent")));
  }
  // An extent of 0 does not excuse the others: NumPy multiplies them as well.
  std::int64_t n = 1;
  bool fits = true;
  bool empty = false;
  for (const std::int64_t extent : header.shape) {
    empty = empty || extent == 0;
    if (extent > 0) fits = fits && !__builtin_mul_overflow(n, extent, &n) && n <= most;
  }
  header.n = empty ? 0 : n;
  fits = fits && !__builtin_mul_overflow(header.n, bit_width(header.dtype) / 8, &header.dense) &&
         header.dense <= most;
  check<FormatError>(fits, kDecode,
                     "a tensor must have at most 1024 times the bytes that hold it, "
                     "shape",
                     header.shape);
  return header;
}

// Elements of the table in the order of `symbols`, all of which it has.
void look_up(ByteSpan symbols, ByteSpan table, int width, std::uint8_t* out) {
  const auto copy = [&]<class Word>(Word) {
    std::array<Word, 256> words{};
    std::memcpy(words.data(), table.data(), table.size());
    parallel_for(static_cast<std::int64_t>(symbols.size()), kGrain,
                 [&](std::int64_t first, std::int64_t last) {
                   for (std::int64_t i = first; i < last; ++i) {
                     std::memcpy(out + i * static_cast<std::int64_t>(sizeof(Word)),
                                 &words[symbols[static_cast<std::size_t>(i)]], sizeof(Word));
                   }
                 });
  };
  switch (width) {
    case 1: copy(std::uint8_t{}); break;
    case 2: copy(std::uint16_t{}); break;
    case 4: copy(std::uint32_t{}); break;
    default: copy(std::uint64_t{});
  }
}

// Puts the elements at `out`, which has room for header.dense bytes; returns what the encoding is
// called, without its coders.
std::string read_elements(Cursor& cursor, const Header& header, std::vector<Stream>* seen,
                          std::uint8_t* out) {
  const int width = bit_width(header.dtype) / 8;
  const std::int64_t n = header.n;
  std::string text;
  int group_n = 0;
  int group_m = 0;
  switch (header.layout) {
    case Layout::dense: break;
    case Layout::bitmap: text = "bitmap+"; break;
    case Layout::csr: text = "csr+"; break;
    case Layout::nm: {
      group_n = static_cast<int>(cursor.varint(255, "n of n:m"));
      group_m = static_cast<int>(cursor.varint(256, "m of n:m"));
      const bool groups = group_n >= 1 && group_n < group_m && !header.shape.empty() &&
                          header.shape.back() % group_m == 0;
      check<FormatError>(groups, kDecode, "n must be in [1, m) and m divide the last axis",
                         group_text(group_n, group_m));
      text = group_text(group_n, group_m) + '+';
    }
  }

  const bool symbols = header.values != Values::raw;
  Codebook book;
  Grid grid;
  Bytes table;
  std::uint64_t zero = 0;
  int bits = 8;
  StreamReader streams(cursor, seen);
  if (header.values == Values::codebook) {
    book.count = static_cast<int>(cursor.varint(256, "the size of a codebook"));
    check<FormatError>(book.count >= 1, kDecode, "a codebook must have an element", book.count);
    const ByteSpan elements = cursor.take(static_cast<std::uint64_t>(book.count * width));
    book.elements.assign(elements.begin(), elements.end());
    bits = symbol_bits(book.count - 1);
    bool found = false;
    for (int s = 0; s < book.count && !found; ++s) {
      found = load_word(book.elements.data(), s, width) == 0;
      zero = static_cast<std::uint64_t>(s);
    }
    check<FormatError>(found || header.layout == Layout::dense, kDecode,
                       "the codebook of a sparse tensor must have a zero, elements", book.count);
    text += "codebook" + std::to_string(bits);
  } else if (header.values == Values::grid) {
    check<FormatError>(is_floating(header.dtype), kDecode, "a grid must be of floats",
                       name(header.dtype));
    grid.bits = bits = cursor.u8();
    check<FormatError>(bits >= 1 && bits <= 8, kDecode, "a grid must have 1 to 8 bits", bits);
    grid.low = -static_cast<int>(cursor.varint(255, "the lowest integer of a grid, negated"));
    check<FormatError>(header.layout == Layout::dense || -grid.low < 1 << bits, kDecode,
                       "the grid of a sparse tensor must have a zero, lowest integer", grid.low);
    zero = static_cast<std::uint64_t>(-grid.low);
    const auto most = static_cast<std::uint64_t>(n);
    grid.count = static_cast<std::int64_t>(cursor.varint(most, "the number of scales"));
    grid.inner = static_cast<std::int64_t>(cursor.varint(most, "the elements of a scale"));
    check<FormatError>(grid.count >= 1 && grid.inner >= 1 && n / grid.count >= grid.inner &&
                           n % (grid.count * grid.inner) == 0,
                       kDecode, "scales must divide the tensor, scales", grid.count);
    const int bytes = scale_width(header.dtype);
    grid.scales.resize(static_cast<std::size_t>(grid.count * bytes));
    streams.take_elements(grid.scales, bytes, true, "scales");
    text += "int" + std::to_string(bits);
  } else {
    text += "raw";
  }

  Bytes mask;
  Bytes counts;
  Bytes places;
  const std::int64_t rows = header.shape.rank() < 2 || header.shape[0] == 0 ? 1 : header.shape[0];
  std::int64_t stored_count = n;
  switch (header.layout) {
    case Layout::dense: break;
    case Layout::bitmap:
      mask.resize(static_cast<std::size_t>((n + 7) / 8));
      streams.take(mask, 8, "mask");
      check_mask(mask, n);
      stored_count = count_bits(mask);
      break;
    case Layout::csr: {
      // No varint of a count or gap below 2^63 is longer than 9 bytes.
      const auto most = static_cast<std::uint64_t>(9 * std::max(n, rows));
      counts.resize(cursor.varint(most, "the bytes of the counts"));
      streams.take(counts, 8, "counts");
      places.resize(cursor.varint(most, "the bytes of the gaps"));
      streams.take(places, 8, "gaps");
      stored_count = sum_counts(counts, rows, n / rows);
      break;
    }
    case Layout::nm: {
      stored_count = n / group_m * group_n;
      const bool joined = one_symbol(group_n, group_m);
      const int place = place_bits(group_m);
      places.resize(static_cast<std::size_t>(joined ? n / group_m : stored_count));
      streams.take(places, joined ? group_n * place : place, "places");
    }
  }

  const int word = symbols ? 1 : width;
  Bytes sparse;
  Bytes dense;
  std::uint8_t* words = out;
  if (symbols) {
    dense.resize(static_cast<std::size_t>(n));
    words = dense.data();
  }
  std::span<std::uint8_t> stored(words, static_cast<std::size_t>(stored_count * word));
  if (header.layout != Layout::dense) {
    sparse.resize(static_cast<std::size_t>(stored_count * word));
    stored = sparse;
  }
  if (symbols) {
    streams.take(stored, bits, "symbols");
    if (header.values == Values::codebook) {
      std::uint8_t largest = 0;
      for (const std::uint8_t symbol : stored) largest = std::max(largest, symbol);
      check<FormatError>(
          largest < book.count, kDecode,
          "an index must be below the size of its codebook, " + std::to_string(book.count),
          static_cast<int>(largest));
    }
  } else {
    streams.take_elements(stored, width, is_floating(header.dtype), "elements");
  }
  switch (header.layout) {
    case Layout::dense: break;
    case Layout::bitmap: expand_mask(mask, stored, word, zero, n, words); break;
    case Layout::csr: expand_rows(counts, places, stored, word, zero, rows, n / rows, words); break;
    case Layout::nm: expand_groups(places, stored, word, zero, group_n, group_m, n, words);
  }
  if (header.values == Values::codebook) look_up(dense, book.elements, width, out);
  if (header.values == Values::grid) apply_grid(grid, dense.data(), n, header.dtype, out);
  return text;
}

std::string with_coders(std::string text, const std::vector<Stream>& streams) {
  constexpr std::array<std::string_view, 4> kNames = {"plain", "zstd", "rans", "fill"};
  std::array<bool, 4> used{};
  for (const Stream& stream : streams) used[static_cast<std::size_t>(stream.coder)] = true;
  for (const Coder coder : {Coder::zstd, Coder::rans}) {
    if (!used[static_cast<std::size_t>(coder)]) continue;
    text += '+';
    text += kNames[static_cast<std::size_t>(coder)];
  }
  return text;
}

// Header and end of the bytes checked; the cursor stands behind the header.
Header open(ByteSpan bytes, Cursor& cursor) {
  check<FormatError>(bytes.size() >= 8, kDecode, "an encoded tensor must have at least 8 bytes",
                     bytes.size());
  check<FormatError>(checksum_holds(bytes), kDecode,
                     "the bytes must have their checksum: they were damaged or cut off, bytes",
                     bytes.size());
  return read_header(cursor, bytes.size());
}

std::string read_all(Cursor& cursor, const Header& header, std::vector<Stream>* seen,
                     std::uint8_t* out) {
  if (header.n == 0) {
    check<FormatError>(header.layout == Layout::dense && header.values == Values::raw, kDecode,
                       "a tensor without elements must be dense and raw, shape", header.shape);
  }
  std::string text = header.n == 0 ? "raw" : read_elements(cursor, header, seen, out);
  const ByteSpan padding = cursor.take(cursor.left());
  const bool zeros = std::all_of(padding.begin(), padding.end(), [](auto b) { return b == 0; });
  check<FormatError>(zeros, kDecode, "bytes behind the last stream must be 0, bytes",
                     padding.size());
  return text;
}

PoolBuffer contiguous(const AnyView& tensor) {
  PoolBuffer copy =
      pool_allocate(std::max<std::int64_t>(byte_count(tensor.dtype(), tensor.size()), 1));
  copy_elements(tensor, MutableAnyView(copy.get(), tensor.dtype(), tensor.shape()));
  return copy;
}

void check_dtype(DType dtype, const char* where) {
  check<DTypeError>(!is_packed(dtype), where, "a tensor must not be of a packed dtype",
                    name(dtype));
}

}  // namespace

Encoding parse_encoding(std::string_view text) {
  constexpr auto where = "pack.parse_encoding";
  const auto refuse = [&](std::string_view part) {
    throw Error(error_text(
        where,
        "encoding must be auto, or names joined by +: one of dense, bitmap, csr, nm and n:m, one "
        "of raw, codebook, grid, int2, int3, int4 and int8, one of plain, zstd and rans",
        '\'' + std::string(part) + "' in '" + std::string(text) + '\''));
  };
  Encoding encoding;
  bool layout = false;
  bool values = false;
  bool coder = false;
  if (text == "auto") return encoding;
  for (std::size_t at = 0; at <= text.size();) {
    const std::size_t end = std::min(text.find('+', at), text.size());
    const std::string_view part = text.substr(at, end - at);
    at = end + 1;
    const auto set_layout = [&](Layout which) {
      if (layout) refuse(part);
      layout = true;
      encoding.layout = which;
    };
    const auto set_values = [&](Values which, int bits = 0) {
      if (values) refuse(part);
      values = true;
      encoding.values = which;
      encoding.bits = bits;
    };
    const auto set_coder = [&](Coder which) {
      if (coder) refuse(part);
      coder = true;
      encoding.coder = which;
    };
    const std::size_t colon = part.find(':');
    if (part == "auto") continue;
    if (part == "dense") set_layout(Layout::dense);
    else if (part == "bitmap") set_layout(Layout::bitmap);
    else if (part == "csr") set_layout(Layout::csr);
    else if (part == "nm") set_layout(Layout::nm);
    else if (part == "raw") set_values(Values::raw);
    else if (part == "codebook") set_values(Values::codebook);
    else if (part == "grid" || part == "int8") set_values(Values::grid, 8);
    else if (part == "int2") set_values(Values::grid, 2);
    else if (part == "int3") set_values(Values::grid, 3);
    else if (part == "int4") set_values(Values::grid, 4);
    else if (part == "plain") set_coder(Coder::raw);
    else if (part == "zstd") set_coder(Coder::zstd);
    else if (part == "rans") set_coder(Coder::rans);
    else if (colon != std::string_view::npos) {
      set_layout(Layout::nm);
      const auto number = [&](std::string_view digits) {
        int value = 0;
        const auto [last, error] =
            std::from_chars(digits.data(), digits.data() + digits.size(), value);
        if (error != std::errc{} || last != digits.data() + digits.size()) refuse(part);
        return value;
      };
      encoding.n = number(part.substr(0, colon));
      encoding.m = number(part.substr(colon + 1));
      check(encoding.n >= 1 && encoding.n < encoding.m && encoding.m <= 256, where,
            "n:m must have n in [1, m) and m at most 256", part);
    } else {
      refuse(part);
    }
  }
  // "rans" alone leaves open what is stored; "codebook" alone means the codebook of all elements.
  encoding.any_layout = !layout && !values;
  encoding.any_values = !layout && !values;
  return encoding;
}

std::vector<std::uint8_t> encode(const AnyView& tensor, const Encoding& encoding) {
  check_dtype(tensor.dtype(), kEncode);
  check(encoding.n == 0 || (encoding.n >= 1 && encoding.n < encoding.m && encoding.m <= 256),
        kEncode, "n:m must have n in [1, m) and m at most 256", group_text(encoding.n, encoding.m));
  check(encoding.bits >= 0 && encoding.bits <= 8, kEncode, "bits must be in [0, 8]", encoding.bits);
  PoolBuffer copy;
  const bool aligned = reinterpret_cast<std::uintptr_t>(tensor.data()) %
                           static_cast<std::uintptr_t>(bit_width(tensor.dtype()) / 8) ==
                       0;
  if (!tensor.is_contiguous() || !aligned) copy = contiguous(tensor);
  Source source{static_cast<const std::uint8_t*>(copy ? copy.get() : tensor.data()),
                tensor.size(),
                tensor.dtype(),
                &tensor.shape(),
                std::nullopt,
                std::nullopt};
  Bytes plain = prefix(source.dtype, tensor.shape(), Layout::dense, Values::raw);
  const std::int64_t dense = byte_count(source.dtype, source.n);
  if (source.n > 0) {
    prepare(source, encoding);
    Bytes best = smallest(source, encoding);
    // What putting them down as they are takes: modes, coder, length, checksum.
    Bytes length;
    put_varint(length, static_cast<std::uint64_t>(dense));
    if (best.size() <= plain.size() + 2 + length.size() + static_cast<std::size_t>(dense) + 4) {
      return best;
    }
    put_elements(plain, ByteSpan(source.data, static_cast<std::size_t>(dense)), 1, false,
                 Coder::raw);
  }
  finish(plain, dense);
  return plain;
}

Description describe_header(std::span<const std::uint8_t> bytes) {
  Cursor cursor(bytes.size() < 4 ? bytes : bytes.first(bytes.size() - 4));
  const Header header = open(bytes, cursor);
  return {
      header.dtype, header.shape, "", header.dense, static_cast<std::int64_t>(bytes.size()), {}};
}

Description describe(std::span<const std::uint8_t> bytes) {
  Cursor cursor(bytes.size() < 4 ? bytes : bytes.first(bytes.size() - 4));
  const Header header = open(bytes, cursor);
  const PoolBuffer elements = pool_allocate(std::max<std::int64_t>(header.dense, 1));
  Description description{
      header.dtype, header.shape, "", header.dense, static_cast<std::int64_t>(bytes.size()), {}};
  std::string text =
      read_all(cursor, header, &description.streams, static_cast<std::uint8_t*>(elements.get()));
  description.encoding = with_coders(std::move(text), description.streams);
  return description;
}

void decode(std::span<const std::uint8_t> bytes, const MutableAnyView& out) {
  Cursor cursor(bytes.size() < 4 ? bytes : bytes.first(bytes.size() - 4));
  const Header header = open(bytes, cursor);
  check<DTypeError>(out.dtype() == header.dtype, kDecode,
                    "out must have dtype " + std::string(name(header.dtype)), name(out.dtype()));
  if (!(out.shape() == header.shape)) {
    std::ostringstream rule;
    rule << "out must have shape " << header.shape;
    throw Error(error_text(kDecode, rule.str(), out.shape()));
  }
  if (out.is_contiguous()) {
    read_all(cursor, header, nullptr, static_cast<std::uint8_t*>(out.data()));
    return;
  }
  const PoolBuffer elements = pool_allocate(std::max<std::int64_t>(header.dense, 1));
  read_all(cursor, header, nullptr, static_cast<std::uint8_t*>(elements.get()));
  copy_elements(AnyView(elements.get(), header.dtype, header.shape), out);
}

double entropy_bound(const AnyView& tensor) {
  check_dtype(tensor.dtype(), "pack.entropy_bound");
  const PoolBuffer copy = contiguous(tensor);
  const auto* data = static_cast<const std::uint8_t*>(copy.get());
  const std::int64_t n = tensor.size();
  const int width = bit_width(tensor.dtype()) / 8;
  std::vector<std::uint64_t> words(static_cast<std::size_t>(n));
  for (std::int64_t i = 0; i < n; ++i)
    words[static_cast<std::size_t>(i)] = load_word(data, i, width);
  std::sort(words.begin(), words.end());
  double bits = 0.0;
  double distinct = 0.0;
  for (std::size_t first = 0; first < words.size();) {
    std::size_t last = first;
    while (last < words.size() && words[last] == words[first]) ++last;
    const auto count = static_cast<double>(last - first);
    bits += count * std::log2(static_cast<double>(n) / count);
    distinct += 1.0;
    first = last;
  }
  return std::min(bits / 8.0 + distinct * width, static_cast<double>(n * width));
}

}  // namespace moptcore::inline v0::pack
