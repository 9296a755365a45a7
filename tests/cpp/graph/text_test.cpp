// SPDX-License-Identifier: Apache-2.0
#include "graph/operators/regex.hpp"

#include "graph/one_node.hpp"

using namespace one_node;

namespace {

using Integers = std::vector<std::int64_t>;
using Floats = std::vector<float>;
using Strings = std::vector<std::string>;

Tensor texts(const Strings& values) {
  return Tensor::of_strings(Shape{static_cast<std::int64_t>(values.size())}, values);
}

bool matches(std::string_view pattern, std::string_view text) {
  return Regex(pattern, "graph.RegexFullMatch").matches(text);
}

}  // namespace

TEST_CASE("StringConcat joins pairs, broadcast", "[graph][text]") {
  CHECK(strings_of(first({"StringConcat", 20}, {texts({"a", "b"}), texts({"x"})})) ==
        Strings{"ax", "bx"});
  const Tensor column = Tensor::of_strings(Shape{2, 1}, {"1", "2"});
  CHECK(strings_of(first({"StringConcat", 20}, {column, texts({"x", "y"})})) ==
        Strings{"1x", "1y", "2x", "2y"});
  CHECK_THROWS_AS(first({"StringConcat", 20}, {texts({"a", "b"}), texts({"x", "y", "z"})}), Error);
  CHECK_THROWS_AS(first({"StringConcat", 20}, {texts({"a"}), list({1})}), DTypeError);
}

TEST_CASE("StringSplit cuts as Python does, and fills rows up", "[graph][text]") {
  const auto split = [](const Strings& values,
                        std::vector<std::pair<std::string, AttributeValue>> attributes) {
    const auto results = run({"StringSplit", 20, std::move(attributes), 2}, {texts(values)});
    return std::pair(strings_of(results[0].tensor()), longs_of(results[1].tensor()));
  };
  CHECK(split({"a.b", "c"}, {{"delimiter", std::string(".")}}) ==
        std::pair(Strings{"a", "b", "c", ""}, Integers{2, 1}));
  CHECK(split({" a  b ", ""}, {}) == std::pair(Strings{"a", "b", "", ""}, Integers{2, 0}));
  CHECK(split({"a--b", ""}, {{"delimiter", std::string("-")}}) ==
        std::pair(Strings{"a", "", "b", "", "", ""}, Integers{3, 1}));
  CHECK(split({"a b  c "}, {{"maxsplit", std::int64_t{1}}}) ==
        std::pair(Strings{"a", "b  c "}, Integers{2}));
}

TEST_CASE("StringNormalizer drops stop words and changes ASCII cases", "[graph][text]") {
  const Tensor days = texts({"Monday", "tuesday"});
  const Op op{"StringNormalizer",
              10,
              {{"case_change_action", std::string("UPPER")}, {"stopwords", Strings{"MONDAY"}}}};
  CHECK(strings_of(first(op, {days})) == Strings{"TUESDAY"});
  const Op all{"StringNormalizer", 10, {{"stopwords", Strings{"monday", "tuesday"}}}};
  CHECK(strings_of(first(all, {days})) == Strings{""});
  const Op sensitive{"StringNormalizer",
                     10,
                     {{"is_case_sensitive", std::int64_t{1}}, {"stopwords", Strings{"monday"}}}};
  CHECK(strings_of(first(sensitive, {days})) == Strings{"Monday", "tuesday"});
  CHECK_THROWS_AS(first(op, {texts({"\xc3\xa4"})}), UnsupportedError);
  CHECK_THROWS_AS(first(op, {Tensor::of_strings(Shape{2, 1}, {"a", "b"})}), Error);
}

TEST_CASE("regular expressions match whole texts", "[graph][text]") {
  CHECK(matches("www\\.[\\w.-]+\\.com", "www.a-b.com"));
  CHECK_FALSE(matches("www\\.[\\w.-]+\\.com", "www.a-b.comx"));
  CHECK(matches("(a|bc)*d?", "abcad"));
  CHECK_FALSE(matches("(a|bc)*d?", "abd"));
  CHECK(matches("a{2,3}", "aa"));
  CHECK_FALSE(matches("a{2,3}", "a"));
  CHECK_FALSE(matches("a{2,3}", "aaaa"));
  CHECK(matches("a{2,}", "aaaaa"));
  CHECK(matches("a{,2}", "a{,2}"));
  CHECK(matches("^[^a-c]+$", "xyz"));
  CHECK_FALSE(matches("[^a-c]+", "xay"));
  CHECK(matches("(?:x|)y", "y"));
  CHECK(matches("(?P<name>x)y", "xy"));
  CHECK(matches("[]a]+", "]a"));
  CHECK(matches("[\\D]", "x"));
  CHECK_FALSE(matches("[\\D]", "7"));
  CHECK(matches("\\x41\\x{42}", "AB"));
  CHECK_FALSE(matches("a\\b.\\Bb.*", "a-bc"));
  CHECK(matches("a\\b.\\b.\\B.", "a-bc"));
  CHECK(matches("(a*)*", ""));
  CHECK(matches("", ""));
  CHECK_FALSE(matches("", "a"));
  // A character of two bytes is one.
  CHECK(matches(".", "\xc3\xa4"));
  CHECK(matches("[\xc3\xa4\xc3\xb6]", "\xc3\xb6"));
  CHECK_FALSE(matches(".", "\n"));
}

TEST_CASE("regular expressions take linear time where others explode", "[graph][text]") {
  CHECK_FALSE(matches("(a*)*b", std::string(20'000, 'a')));
  CHECK(matches("(a?){200}a{200}", std::string(200, 'a')));
}

TEST_CASE("regular expressions that no automaton matches are refused by name", "[graph][text]") {
  CHECK_THROWS_AS(matches("(?=a)b", ""), UnsupportedError);
  CHECK_THROWS_AS(matches("(?i)b", ""), UnsupportedError);
  CHECK_THROWS_AS(matches("(a)\\1", ""), UnsupportedError);
  CHECK_THROWS_AS(matches("\\Qx", ""), UnsupportedError);
  CHECK_THROWS_AS(matches("\\pL", ""), UnsupportedError);
  CHECK_THROWS_AS(matches("[[:alpha:]]", ""), UnsupportedError);
  CHECK_THROWS_AS(matches("((a{1000}){1000}){1000}", ""), UnsupportedError);
  CHECK_THROWS_AS(matches(std::string(1000, '('), ""), UnsupportedError);
  for (const char* wrong :
       {"(", ")", "[", "[a", "[b-a]", "a**", "*", "\\", "a{3,2}", "a{1001}", "\\x4", "(?P<x"}) {
    CHECK_THROWS_AS(matches(wrong, ""), FormatError);
  }
}

TEST_CASE("RegexFullMatch marks the texts that match", "[graph][text]") {
  const Op op{"RegexFullMatch", 20, {{"pattern", std::string("[a-c]+")}}};
  CHECK(bytes_of(first(op, {texts({"abc", "abd", ""})})) == std::vector<int>{1, 0, 0});
}

TEST_CASE("TfIdfVectorizer counts n-grams, skipping items", "[graph][text]") {
  const auto vectorize = [](std::int64_t least, std::int64_t most, std::int64_t skips,
                            const char* mode, const Tensor& x) {
    return floats_of(first({"TfIdfVectorizer",
                            9,
                            {{"mode", std::string(mode)},
                             {"min_gram_length", least},
                             {"max_gram_length", most},
                             {"max_skip_count", skips},
                             {"ngram_counts", Integers{0, 4}},
                             {"ngram_indexes", Integers{0, 1, 2, 3, 4, 5, 6}},
                             {"weights", Floats{1, 2, 3, 4, 5, 6, 7}},
                             {"pool_int64s", Integers{2, 3, 5, 4, 5, 6, 7, 8, 6, 7}}}},
                           {x}));
  };
  const Tensor x = list({1, 1, 3, 3, 3, 7, 8, 6, 7, 5, 6, 8});
  CHECK(vectorize(2, 2, 0, "TF", x) == Floats{0, 0, 0, 0, 1, 1, 1});
  CHECK(vectorize(1, 2, 0, "TF", x) == Floats{0, 3, 1, 0, 1, 1, 1});
  CHECK(vectorize(2, 2, 5, "TF", x) == Floats{0, 0, 0, 0, 1, 3, 1});
  CHECK(vectorize(1, 2, 0, "IDF", x) == Floats{0, 2, 3, 0, 5, 6, 7});
  CHECK(vectorize(1, 2, 0, "TFIDF", x) == Floats{0, 6, 3, 0, 5, 6, 7});
  // The longest way to skip is over the whole text.
  CHECK(vectorize(2, 2, std::numeric_limits<std::int64_t>::max() - 1, "TF", list({5, 6})) ==
        Floats{0, 0, 0, 0, 1, 0, 0});
  CHECK_THROWS_AS(vectorize(0, 2, 0, "TF", x), Error);
  CHECK_THROWS_AS(vectorize(1, 2, -1, "TF", x), Error);
  CHECK_THROWS_AS(vectorize(1, 2, 0, "TFX", x), Error);
}
