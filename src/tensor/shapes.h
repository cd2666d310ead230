#pragma once

#include <initializer_list>
#include <string_view>

#include "tensor/tensor.h"

namespace sala {

/// A symbolic extent, bound by the first tensor that uses it: `Dim T; Shapes("op")("x", x, {T,
/// 64})("y", y, {T});`
class Dim {
 public:
  constexpr explicit Dim(std::string_view name) : name_(name) {}
  std::string_view name() const { return name_; }
  int64_t value() const { return value_; }

 private:
  friend class Shapes;
  std::string_view name_;
  int64_t value_ = -1;
};

/// An extent in a contract: a symbol or a number.
struct Extent {
  Extent(Dim& d) : symbol(&d) {}  // NOLINT(google-explicit-constructor): contracts read like maths
  Extent(int64_t n) : number(n) {}  // NOLINT(google-explicit-constructor)
  Extent(int n) : number(n) {}      // NOLINT(google-explicit-constructor)
  Dim* symbol = nullptr;
  int64_t number = -1;
};

/// Checks the shapes and types of an op's tensors at its entry; a breach is a bug of the caller and
/// ends the program with the op, the tensor and the extent.
class Shapes {
 public:
  explicit Shapes(std::string_view op) : op_(op) {}
  const Shapes& operator()(std::string_view tensor, const In& x, std::initializer_list<Extent> dims,
                           DType dtype = DType::f32) const;
  /// The same for an input that may be absent.
  const Shapes& optional(std::string_view tensor, const In& x, std::initializer_list<Extent> dims,
                         DType dtype = DType::f32) const;

 private:
  std::string_view op_;
};

}  // namespace sala
