// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moptcore/distill/attention.hpp>
#include <moptcore/distill/cosine.hpp>
#include <moptcore/distill/dist.hpp>
#include <moptcore/distill/feature.hpp>
#include <moptcore/distill/relational.hpp>
#include <moptcore/distill/similarity.hpp>
#include <moptcore/distill/soft_targets.hpp>
#include <moptcore/distill/teachers.hpp>
