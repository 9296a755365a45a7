// SPDX-License-Identifier: Apache-2.0
#include <moptcore/core/isa.hpp>
#include <moptcore/pack/encoding.hpp>

#include <array>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "catch.hpp"

using namespace moptcore;
using namespace moptcore::pack;
using Catch::Matchers::Contains;

namespace {

// 0 but for every fifth, which is scale * q with q in [-7, 7].
std::vector<float> sparse_grid(std::int64_t n) {
  std::vector<float> out(static_cast<std::size_t>(n));
  for (std::size_t i = 0; i < out.size(); i += 5) {
    out[i] = 0.037f * static_cast<float>(static_cast<int>(i * 2654435761u >> 7 & 15) % 15 - 7);
    if (out[i] == 0.0f) out[i] = 0.0f;
  }
  return out;
}

std::span<const std::uint8_t> text(const std::string& t) {
  return {reinterpret_cast<const std::uint8_t*>(t.data()), t.size()};
}

}  // namespace

TEST_CASE("crc32 has the check value of its catalogue entry", "[pack]") {
  CHECK(crc32(text("123456789")) == 0xCBF43926u);
  CHECK(crc32({}) == 0u);
  const std::string long_text(1000, 'x');
  CHECK(crc32(text(long_text)) ==
        crc32(text(long_text.substr(333)), crc32(text(long_text.substr(0, 333)))));
}

TEST_CASE("crc32 is the division of polynomials at every length and target", "[pack]") {
  std::string bytes(1000, '\0');
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    bytes[i] = static_cast<char>(static_cast<std::uint32_t>(i) * 2654435761u >> 19);
  }
  for (const std::string& isa : available_isas()) {
    set_max_isa(isa);
    std::uint32_t division = 0xFFFFFFFFu;
    bool right = true;
    for (std::size_t n = 0; n < bytes.size(); ++n) {
      right = right && crc32(text(bytes).first(n)) == ~division &&
              crc32(text(bytes).subspan(n / 3, n - n / 3), crc32(text(bytes).first(n / 3))) ==
                  ~division;
      division ^= static_cast<unsigned char>(bytes[n]);
      for (int bit = 0; bit < 8; ++bit) {
        division = (division >> 1) ^ ((division & 1u) != 0 ? 0xEDB88320u : 0u);
      }
    }
    CAPTURE(isa);
    CHECK(right);
  }
  set_max_isa("");
}

TEST_CASE("Every encoding gives back the bits it was given", "[pack]") {
  const std::int64_t n = GENERATE(values<std::int64_t>({1, 7, 8, 9, 64, 4000, 300'000}));
  const std::string encoding =
      GENERATE("auto", "dense+plain", "bitmap", "csr", "codebook", "int8", "bitmap+codebook+rans",
               "csr+int4+zstd", "bitmap+raw+plain", "dense+raw+zstd");
  CAPTURE(n, encoding);
  const std::vector<float> tensor = sparse_grid(n);
  const auto bytes = encode(tensor, parse_encoding(encoding));
  CHECK(bytes.size() <= tensor.size() * 4 + 37 + 9);
  std::vector<float> back(tensor.size(), -1.0f);
  decode(bytes, back);
  CHECK(std::memcmp(back.data(), tensor.data(), tensor.size() * 4) == 0);
  const Description description = describe(bytes);
  CHECK(description.shape == Shape{n});
  CHECK(description.dense_bytes == 4 * n);
}

TEST_CASE("Bytes and elements are the same on every instruction set", "[pack]") {
  std::vector<float> tensor = sparse_grid(700'001);
  for (std::size_t i = 0; i < tensor.size(); i += 7) tensor[i] = -tensor[i];  // some are -0.0
  std::vector<std::vector<std::uint8_t>> made;
  for (const std::string& isa : available_isas()) {
    CAPTURE(isa);
    set_max_isa(isa);
    for (const char* encoding : {"auto", "dense+codebook+rans", "bitmap+raw+rans"}) {
      CAPTURE(encoding);
      made.push_back(encode(tensor, parse_encoding(encoding)));
      CHECK((made.size() <= 3 || made.back() == made[made.size() - 4]));
      std::vector<float> back(tensor.size(), -1.0f);
      decode(made.back(), back);
      CHECK(std::memcmp(back.data(), tensor.data(), tensor.size() * 4) == 0);
    }
  }
  set_max_isa("");
}

TEST_CASE("A stream of rANS is within a permille of its entropy", "[pack]") {
  std::vector<std::uint8_t> symbols(1 << 20);
  std::uint32_t state = 1;
  for (auto& symbol : symbols) {
    state = state * 1664525u + 1013904223u;
    symbol = (state >> 24) < 205 ? 0 : static_cast<std::uint8_t>(1 + (state >> 20) % 15);
  }
  std::array<double, 16> counts{};
  for (const auto symbol : symbols) ++counts[symbol];
  double bits = 0.0;
  for (const double count : counts) {
    if (count > 0) bits += count * std::log2(static_cast<double>(symbols.size()) / count);
  }
  const auto bytes = encode(symbols, parse_encoding("dense+raw+rans"));
  // Frequencies of 2^-12 cost less than a permille; table, states and lengths less than 300 bytes.
  CHECK(static_cast<double>(bytes.size()) < bits / 8.0 * 1.001 + 300.0);
  CHECK(static_cast<double>(bytes.size()) > bits / 8.0);
}

TEST_CASE("Named encodings refuse what does not fit them", "[pack]") {
  std::vector<float> many(300);
  for (std::size_t i = 0; i < many.size(); ++i) many[i] = std::sqrt(static_cast<float>(i));
  CHECK_THROWS_WITH(encode(many, parse_encoding("codebook")), Contains("at most 256 distinct"));
  CHECK_THROWS_WITH(encode(many, parse_encoding("int8")), Contains("must equal scale * q"));
  CHECK_THROWS_AS(parse_encoding("bitmap+csr"), Error);
  CHECK_THROWS_WITH(parse_encoding("4:4"), Contains("n:m must have n in [1, m)"));
  const std::array<std::uint8_t, 2> nibbles{};
  CHECK_THROWS_AS(encode(AnyView(nibbles.data(), DType::int4, Shape{4})), DTypeError);
}

TEST_CASE("No cut and no flipped bit of an encoded tensor is decoded", "[pack]") {
  const std::vector<float> tensor = sparse_grid(200);
  auto bytes = encode(tensor);
  std::vector<float> back(tensor.size());
  for (std::size_t at = 0; at < bytes.size(); ++at) {
    CHECK_THROWS_AS(decode(std::span(bytes).first(at), back), FormatError);
    bytes[at] ^= 16;
    CHECK_THROWS_AS(decode(bytes, back), FormatError);
    bytes[at] ^= 16;
  }
  decode(bytes, back);
  CHECK(back == tensor);
}

TEST_CASE("Decoding into other dtypes and shapes is refused", "[pack]") {
  const auto bytes = encode(sparse_grid(20));
  std::vector<double> wide(20);
  std::vector<float> small(19);
  CHECK_THROWS_AS(decode(bytes, wide), DTypeError);
  CHECK_THROWS_WITH(decode(bytes, small), Contains("out must have shape (20,)"));
}

TEST_CASE("The order-0 bound of two equally likely elements is a bit each", "[pack]") {
  std::vector<float> tensor(8000);
  for (std::size_t i = 0; i < tensor.size(); i += 2) tensor[i] = 1.5f;
  CHECK(entropy_bound(tensor) == 1008.0);
}
