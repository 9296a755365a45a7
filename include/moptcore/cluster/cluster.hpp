// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moptcore/cluster/assign.hpp>
#include <moptcore/cluster/kmeans.hpp>
