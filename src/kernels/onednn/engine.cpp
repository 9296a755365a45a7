// SPDX-License-Identifier: Apache-2.0
#include "kernels/onednn/engine.hpp"

#include <stdexcept>
#include <string_view>

#if DNNL_CPU_THREADING_RUNTIME == DNNL_RUNTIME_OMP
#include <omp.h>
#endif

namespace moptcore::inline v0::kernels::onednn {
namespace {

using dnnl::algorithm;
using dnnl::memory;

dnnl_stream_t stream() {
  static thread_local const dnnl::stream own(cpu());
  return own.get();
}

class Arguments final : public Bound {
 public:
  Arguments(dnnl::primitive primitive, const std::vector<std::pair<int, Layout>>& arguments,
            const memory::desc& scratch)
      : primitive_(std::move(primitive)) {
    memories_.reserve(arguments.size() + 1);
    for (const auto& [id, layout] : arguments) add(id, desc_of(layout));
    if (scratch.get_size() > 0) add(DNNL_ARG_SCRATCHPAD, scratch);
  }

  void run(void* const* buffers) override {
    for (std::size_t i = 0; i < memories_.size(); ++i) {
      dnnl_memory_set_data_handle(memories_[i].get(), buffers[i]);
    }
    const dnnl_status_t status = dnnl_primitive_execute(
        primitive_.get(), stream(), static_cast<int>(arguments_.size()), arguments_.data());
    if (status != dnnl_success) throw std::runtime_error("a oneDNN primitive failed");
  }

 private:
  void add(int id, const memory::desc& desc) {
    memories_.push_back(memory(desc, cpu(), DNNL_MEMORY_NONE));
    arguments_.push_back({id, memories_.back().get()});
  }

  dnnl::primitive primitive_;
  std::vector<memory> memories_;
  std::vector<dnnl_exec_arg_t> arguments_;
};

class Wrapped final : public Primitive {
 public:
  [[nodiscard]] std::unique_ptr<Bound> bind() const override {
    try {
      return std::make_unique<Arguments>(primitive, arguments, scratch);
    } catch (const dnnl::error& error) {
      throw std::runtime_error(error.what());
    }
  }

  dnnl::primitive primitive;
  std::vector<std::pair<int, Layout>> arguments;
  memory::desc scratch;
};

}  // namespace

#if DNNL_CPU_THREADING_RUNTIME == DNNL_RUNTIME_OMP
Threads::Threads(int count) noexcept : before_(omp_get_max_threads()) {
  omp_set_num_threads(count);
}
Threads::~Threads() { omp_set_num_threads(before_); }
void Threads::set(int count) noexcept { omp_set_num_threads(count); }
#else
Threads::Threads(int count) noexcept : before_(count) {}
Threads::~Threads() = default;
void Threads::set(int /*count*/) noexcept {}
#endif

bool limit_isa(std::string_view name) {
  const dnnl::cpu_isa isa = name == "avx512" ? dnnl::cpu_isa::avx512_core_amx
                            : name == "avx2" ? dnnl::cpu_isa::avx2_vnni
                                             : dnnl::cpu_isa::sse41;
  return dnnl::set_max_cpu_isa(isa) == dnnl::status::success ||
         dnnl::get_effective_cpu_isa() <= isa;
}

Bound::~Bound() = default;
Primitive::~Primitive() = default;

const dnnl::engine& cpu() {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

memory::dims dims_of(const Shape& shape) {
  if (shape.empty()) return {1};
  return {shape.begin(), shape.end()};
}

memory::desc any_of(const Shape& shape) {
  return {dims_of(shape), memory::data_type::f32, memory::format_tag::any};
}

algorithm algorithm_of(Algorithm which) {
  switch (which) {
    case Algorithm::relu: return algorithm::eltwise_relu;
    case Algorithm::clip: return algorithm::eltwise_clip;
    case Algorithm::sigmoid: return algorithm::eltwise_logistic;
    case Algorithm::tanh: return algorithm::eltwise_tanh;
    case Algorithm::swish: return algorithm::eltwise_swish;
    case Algorithm::gelu_erf: return algorithm::eltwise_gelu_erf;
    case Algorithm::gelu_tanh: return algorithm::eltwise_gelu_tanh;
    case Algorithm::elu: return algorithm::eltwise_elu;
    case Algorithm::hard_sigmoid: return algorithm::eltwise_hardsigmoid;
    case Algorithm::hard_swish: return algorithm::eltwise_hardswish;
    case Algorithm::mish: return algorithm::eltwise_mish;
    case Algorithm::linear: return algorithm::eltwise_linear;
    case Algorithm::power: return algorithm::eltwise_pow;
    case Algorithm::absolute: return algorithm::eltwise_abs;
    case Algorithm::square_root: return algorithm::eltwise_sqrt;
    case Algorithm::exponential: return algorithm::eltwise_exp;
    case Algorithm::logarithm: return algorithm::eltwise_log;
    case Algorithm::add: return algorithm::binary_add;
    case Algorithm::multiply: return algorithm::binary_mul;
    case Algorithm::subtract: return algorithm::binary_sub;
    case Algorithm::divide: return algorithm::binary_div;
    case Algorithm::maximum: return algorithm::binary_max;
    case Algorithm::minimum: return algorithm::binary_min;
  }
  return algorithm::undef;
}

dnnl::primitive_attr attributes_of(std::span<const Post> posts) {
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  dnnl::post_ops operations;
  for (const Post& post : posts) {
    if (is_binary(post.algorithm)) {
      operations.append_binary(algorithm_of(post.algorithm), desc_of(post.operand));
    } else {
      operations.append_eltwise(algorithm_of(post.algorithm), post.a, post.b);
    }
  }
  attributes.set_post_ops(operations);
  return attributes;
}

bool is_slow(const char* implementation) {
  const std::string_view name(implementation);
  return name.find("ref") != std::string_view::npos;
}

PrimitivePtr wrap(const dnnl::primitive& primitive, std::vector<std::pair<int, Layout>> inputs,
                  std::pair<int, Layout> output, const memory::desc& scratch,
                  std::span<const Post> posts, std::string name, bool in_place) {
  auto result = std::make_shared<Wrapped>();
  result->primitive = primitive;
  result->arguments = std::move(inputs);
  for (std::size_t i = 0; i < posts.size(); ++i) {
    if (is_binary(posts[i].algorithm)) {
      result->arguments.emplace_back(
          DNNL_ARG_ATTR_MULTIPLE_POST_OP(static_cast<int>(i)) | DNNL_ARG_SRC_1, posts[i].operand);
    }
  }
  for (const auto& [id, layout] : result->arguments) result->inputs.push_back(layout);
  result->output = output.second;
  result->arguments.push_back(std::move(output));
  result->scratch = scratch;
  result->scratch_bytes = static_cast<std::int64_t>(scratch.get_size());
  result->name = std::move(name);
  result->in_place = in_place;
  return result;
}

}  // namespace moptcore::inline v0::kernels::onednn
