// SPDX-License-Identifier: Apache-2.0
// The class Model of Python.
#pragma once

#include <memory>
#include <utility>

#include <moptcore/graph/evaluate.hpp>
#include <moptcore/graph/model.hpp>

namespace moptcore::bindings {

/// A model that changes as a whole only: `set` replaces it, and what was made of it.
class GraphModel {
 public:
  explicit GraphModel(graph::Model model)
      : model_(std::make_shared<const graph::Model>(std::move(model))) {}

  [[nodiscard]] const graph::Model& get() const noexcept { return *model_; }

  /// For who uses it while others may replace it.
  [[nodiscard]] std::shared_ptr<const graph::Model> share() const noexcept { return model_; }

  void set(graph::Model model) {
    model_ = std::make_shared<const graph::Model>(std::move(model));
    evaluator_ = nullptr;
  }

  /// Made on the first call; whoever holds it may run it while the model is replaced. Wants the
  /// GIL.
  [[nodiscard]] std::shared_ptr<const graph::Evaluator> evaluator() const {
    if (evaluator_ == nullptr) evaluator_ = std::make_shared<const graph::Evaluator>(*model_);
    return evaluator_;
  }

 private:
  std::shared_ptr<const graph::Model> model_;
  mutable std::shared_ptr<const graph::Evaluator> evaluator_;
};

}  // namespace moptcore::bindings
