// SPDX-License-Identifier: Apache-2.0
// Fourier transforms of any length, and the weights of mel spectra.
#include <bit>
#include <cmath>
#include <complex>
#include <limits>
#include <numbers>

#include <moptcore/graph/operator.hpp>
#include "graph/operators/widen.hpp"

namespace moptcore::inline v0::graph {
namespace {

using Complex = std::complex<double>;

constexpr std::int64_t kMaxLength = 1 << 24;

// A product without the special cases of infinities that std::complex has to treat.
Complex times(const Complex& a, const Complex& b) {
  return {a.real() * b.real() - a.imag() * b.imag(), a.real() * b.imag() + a.imag() * b.real()};
}

// e^(-2 pi i k / n)
Complex root(std::int64_t k, std::int64_t n) {
  const double angle = -2 * std::numbers::pi * static_cast<double>(k % n) / static_cast<double>(n);
  return {std::cos(angle), std::sin(angle)};
}

// Transforms of one length: by halving where it is a power of two, otherwise as a convolution with
// a chirp (Bluestein, 1970), which is a product of transforms of such a length.
class Fourier {
 public:
  explicit Fourier(std::int64_t length) : length_(length) {
    const auto wide = static_cast<std::uint64_t>(length);
    if (std::has_single_bit(wide)) {
      make_roots(length);
      return;
    }
    const auto size = static_cast<std::int64_t>(std::bit_ceil(2 * wide - 1));
    make_roots(size);
    chirp_.resize(static_cast<std::size_t>(length));
    filter_.assign(static_cast<std::size_t>(size), Complex());
    for (std::int64_t i = 0; i < length; ++i) {
      // i^2 / 2 turns modulo the length: exact as i^2 modulo twice the length.
      chirp_[i] = root(i * i % (2 * length), 2 * length);
      filter_[i] = std::conj(chirp_[i]);
      if (i > 0) filter_[size - i] = filter_[i];
    }
    halve(filter_);
  }

  // In place, not normalized.
  void forward(std::vector<Complex>& values, std::vector<Complex>& work) const {
    if (chirp_.empty()) return halve(values);
    work.assign(filter_.size(), Complex());
    for (std::int64_t i = 0; i < length_; ++i) work[i] = times(values[i], chirp_[i]);
    halve(work);
    // The inverse transform is the conjugate of that of the conjugate.
    for (std::size_t i = 0; i < work.size(); ++i) work[i] = std::conj(times(work[i], filter_[i]));
    halve(work);
    const double factor = 1 / static_cast<double>(work.size());
    for (std::int64_t i = 0; i < length_; ++i) {
      values[i] = times(std::conj(work[i]) * factor, chirp_[i]);
    }
  }

 private:
  void make_roots(std::int64_t size) {
    roots_.resize(static_cast<std::size_t>(size / 2));
    for (std::int64_t i = 0; i < size / 2; ++i) roots_[i] = root(i, size);
  }

  void halve(std::vector<Complex>& values) const {
    const std::size_t size = values.size();
    for (std::size_t i = 1, j = 0; i < size; ++i) {
      std::size_t bit = size >> 1;
      for (; (j & bit) != 0; bit >>= 1) j ^= bit;
      j ^= bit;
      if (i < j) std::swap(values[i], values[j]);
    }
    for (std::size_t half = 1; half < size; half *= 2) {
      const std::size_t step = size / (2 * half);
      for (std::size_t start = 0; start < size; start += 2 * half) {
        for (std::size_t i = 0; i < half; ++i) {
          const Complex odd = times(values[start + i + half], roots_[i * step]);
          const Complex even = values[start + i];
          values[start + i] = even + odd;
          values[start + i + half] = even - odd;
        }
      }
    }
  }

  std::int64_t length_;
  std::vector<Complex> roots_;
  std::vector<Complex> chirp_;
  std::vector<Complex> filter_;
};

void dft(Call& call) {
  const Tensor& input = call.input(0);
  const Shape& shape = input.shape();
  const int rank = shape.rank();
  call.require(rank >= 2 && (shape.back() == 1 || shape.back() == 2),
               "the input must have 2 or more dimensions, the last one of 1 or 2, shape", shape);
  const bool inverse = call.attribute<std::int64_t>("inverse", 0) != 0;
  const bool onesided = call.attribute<std::int64_t>("onesided", 0) != 0;
  std::int64_t given = call.version() >= 20 ? -2 : call.attribute<std::int64_t>("axis", 1);
  if (call.version() >= 20 && call.has(2)) given = call.integer(2);
  const std::int64_t axis64 = given < 0 ? given + rank : given;
  call.require(axis64 >= 0 && axis64 < rank - 1, "axis must be one in front of the last", given);
  const int axis = static_cast<int>(axis64);
  const std::int64_t extent = shape[axis];
  const std::int64_t parts = shape.back();
  const bool to_real = inverse && onesided;
  call.require(!onesided || inverse || parts == 1,
               "a one-sided transform must have real input, last dimension", parts);
  call.require(!to_real || parts == 2,
               "a one-sided inverse transform must have complex input, last dimension", parts);
  std::int64_t length = to_real ? 2 * (std::min(extent, kMaxLength + 1) - 1) : extent;
  if (call.has(1)) length = call.integer(1);
  call.require(length >= 1 && length <= kMaxLength, "dft_length must be in [1, 2^24]", length);
  Shape output = shape;
  output[axis] = onesided && !inverse ? length / 2 + 1 : length;
  output[rank - 1] = to_real ? 1 : 2;
  Shape before;
  Shape between;
  for (int i = 0; i < axis; ++i) before.push_back(shape[i]);
  for (int i = axis + 1; i < rank - 1; ++i) between.push_back(shape[i]);
  const Tensor x = widened(call, input);
  Tensor y = call.environment().allocate(x.type(), output);
  if (y.size() > 0) {
    const std::int64_t outer = element_count(before);
    const std::int64_t inner = element_count(between);
    const std::int64_t bins = output[axis];
    const std::int64_t kept = std::min(extent, to_real ? length / 2 + 1 : length);
    const Fourier transform(length);
    visit_wide(call, x.type(), [&]<class T> {
      const T* in = x.data<T>();
      T* out = y.mutable_data<T>();
      const std::int64_t grain = std::max<std::int64_t>((1 << 12) / length, 1);
      parallel_for(outer * inner, grain, [&](std::int64_t first, std::int64_t last) {
        std::vector<Complex> line(static_cast<std::size_t>(length));
        std::vector<Complex> work;
        for (std::int64_t job = first; job < last; ++job) {
          const std::int64_t o = job / inner;
          const std::int64_t j = job % inner;
          std::fill(line.begin(), line.end(), Complex());
          for (std::int64_t i = 0; i < kept; ++i) {
            const T* from = in + ((o * extent + i) * inner + j) * parts;
            Complex value(static_cast<double>(from[0]),
                          parts == 2 ? static_cast<double>(from[1]) : 0.0);
            if (to_real) {
              // Real signals have real first and middle frequencies, the rest mirrored.
              if (i == 0 || 2 * i == length) value.imag(0);
              else line[length - i] = value;
            }
            // The inverse is the conjugate of the transform of the conjugate.
            line[i] = inverse ? std::conj(value) : value;
          }
          transform.forward(line, work);
          const double factor = inverse ? 1 / static_cast<double>(length) : 1;
          for (std::int64_t i = 0; i < bins; ++i) {
            T* to = out + ((o * bins + i) * inner + j) * output.back();
            to[0] = static_cast<T>(line[i].real() * factor);
            if (!to_real) to[1] = static_cast<T>((inverse ? -1 : 1) * line[i].imag() * factor);
          }
        }
      });
    });
  }
  set_rounded(call, 0, y, input.type());
}

void stft(Call& call) {
  const Tensor& input = call.input(0);
  const Shape& shape = input.shape();
  call.require(shape.rank() == 3 && (shape[2] == 1 || shape[2] == 2),
               "the signal must have the shape (batch, length, 1 or 2)", shape);
  const std::int64_t step = call.integer(1);
  call.require(step >= 1, "frame_step must be >= 1", step);
  const bool onesided = call.attribute<std::int64_t>("onesided", 1) != 0;
  const std::int64_t parts = shape[2];
  call.require(!onesided || parts == 1, "a one-sided transform must have a real signal, parts",
               parts);
  std::optional<Tensor> window;
  if (call.has(2)) window = widened(call, call.input(2, input.type()));
  if (window) {
    call.require(window->rank() == 1, "the window must have 1 dimension, shape", window->shape());
  }
  std::int64_t length = window ? window->size() : shape[1];
  if (call.has(3)) length = call.integer(3);
  call.require(!window || length == window->size(), "frame_length must be that of the window",
               length);
  call.require(length >= 1 && length <= kMaxLength && length <= shape[1],
               "frame_length must be in [1, 2^24] and not above the signal's length", length);
  const std::int64_t frames = (shape[1] - length) / step + 1;
  const std::int64_t bins = onesided ? length / 2 + 1 : length;
  const Tensor x = widened(call, input);
  Tensor y = call.environment().allocate(x.type(), Shape{shape[0], frames, bins, 2});
  if (y.size() > 0) {
    const Fourier transform(length);
    visit_wide(call, x.type(), [&]<class T> {
      const T* weights = window ? window->data<T>() : nullptr;
      const std::int64_t grain = std::max<std::int64_t>((1 << 12) / length, 1);
      parallel_for(shape[0] * frames, grain, [&](std::int64_t first, std::int64_t last) {
        std::vector<Complex> line(static_cast<std::size_t>(length));
        std::vector<Complex> work;
        for (std::int64_t job = first; job < last; ++job) {
          const std::int64_t start = job / frames * shape[1] + job % frames * step;
          const T* from = x.data<T>() + start * parts;
          for (std::int64_t i = 0; i < length; ++i) {
            const double weight = weights == nullptr ? 1.0 : static_cast<double>(weights[i]);
            line[i] = {weight * static_cast<double>(from[i * parts]),
                       parts == 2 ? weight * static_cast<double>(from[i * parts + 1]) : 0.0};
          }
          transform.forward(line, work);
          T* to = y.mutable_data<T>() + job * bins * 2;
          for (std::int64_t i = 0; i < bins; ++i) {
            to[2 * i] = static_cast<T>(line[i].real());
            to[2 * i + 1] = static_cast<T>(line[i].imag());
          }
        }
      });
    });
  }
  set_rounded(call, 0, y, input.type());
}

double number(Call& call, int index) {
  const Tensor& given = call.input(index);
  call.require(given.size() == 1,
               "input " + std::to_string(index) + " must have one element, shape", given.shape());
  const Tensor wide = widened(call, given);
  return visit_wide(call, wide.type(),
                    [&]<class T> { return static_cast<double>(wide.data<T>()[0]); });
}

void mel_weight_matrix(Call& call) {
  const std::int64_t bands = call.integer(0);
  const std::int64_t length = call.integer(1);
  const std::int64_t rate = call.integer(2);
  const double low = number(call, 3);
  const double high = number(call, 4);
  call.require(bands >= 0 && bands <= kMaxLength, "num_mel_bins must be in [0, 2^24]", bands);
  call.require(length >= 0 && length <= kMaxLength, "dft_length must be in [0, 2^24]", length);
  call.require(rate >= 1, "sample_rate must be >= 1", rate);
  call.require(low >= 0 && std::isfinite(low), "lower_edge_hertz must be >= 0", low);
  call.require(high >= 0 && std::isfinite(high), "upper_edge_hertz must be >= 0", high);
  const auto wanted = call.attribute<std::int64_t>("output_datatype", 1);
  call.require<DTypeError>(wanted > 0 && wanted < kElementTypeCount,
                           "output_datatype must be a type that moptcore has", wanted);
  const auto type = static_cast<ElementType>(wanted);
  const auto mel = [](double hertz) { return 2595 * std::log10(1 + hertz / 700); };
  const auto hertz = [](double value) { return 700 * (std::pow(10, value / 2595) - 1); };
  const std::int64_t bins = length / 2 + 1;
  const double step = (mel(high) - mel(low)) / static_cast<double>(bands + 2);
  std::vector<std::int64_t> edges(static_cast<std::size_t>(bands + 2));
  for (std::int64_t i = 0; i < bands + 2; ++i) {
    const double frequency = hertz(static_cast<double>(i) * step + mel(low));
    const double bin =
        std::floor(static_cast<double>(length + 1) * frequency / static_cast<double>(rate));
    edges[i] = static_cast<std::int64_t>(std::clamp(bin, 0.0, 0x1p50));
  }
  Tensor weights = call.environment().allocate(ElementType::float64, Shape{bins, bands});
  double* out = weights.mutable_data<double>();
  std::fill_n(out, weights.size(), 0.0);
  for (std::int64_t band = 0; band < bands; ++band) {
    const std::int64_t left = edges[band];
    const std::int64_t center = edges[band + 1];
    const std::int64_t right = edges[band + 2];
    const auto set = [&](std::int64_t bin, double weight) { out[bin * bands + band] = weight; };
    if (left == center) {
      if (center < bins) set(center, 1);
    } else {
      for (std::int64_t i = left; i <= center && i < bins; ++i) {
        set(i, static_cast<double>(i - left) / static_cast<double>(center - left));
      }
    }
    for (std::int64_t i = center; i < right && i < bins; ++i) {
      set(i, static_cast<double>(right - i) / static_cast<double>(right - center));
    }
  }
  Tensor& y = call.output(0, type, weights.shape());
  visit_numbers(call, type, [&]<class T> {
    std::transform(out, out + weights.size(), y.mutable_data<T>(),
                   [](double weight) { return T(static_cast<Arithmetic<T>>(weight)); });
  });
}

constexpr Operator kOperators[] = {
    {"", "DFT", 17, dft},
    {"", "MelWeightMatrix", 17, mel_weight_matrix},
    {"", "STFT", 17, stft},
};

}  // namespace

std::span<const Operator> signal_operators() noexcept { return kOperators; }

}  // namespace moptcore::inline v0::graph
