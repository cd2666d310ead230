#include "tensor/shapes.h"

namespace sala {

const Shapes& Shapes::operator()(std::string_view tensor, const In& x,
                                 std::initializer_list<Extent> dims, DType dtype) const {
  SALA_CHECK(!x.empty(), "{}: {} is absent", op_, tensor);
  SALA_CHECK(x.dtype == dtype, "{}: {} is {}, expected {}", op_, tensor, name_of(x.dtype),
             name_of(dtype));
  SALA_CHECK(x.rank == static_cast<int>(dims.size()), "{}: {} has rank {}, expected {}", op_,
             tensor, x.rank, dims.size());
  size_t axis = 0;
  for (const Extent& e : dims) {
    const int64_t found = x.dim[axis];
    if (e.symbol != nullptr && e.symbol->value_ < 0) {
      e.symbol->value_ = found;
    } else {
      const int64_t expected = e.symbol != nullptr ? e.symbol->value_ : e.number;
      SALA_CHECK(found == expected, "{}: axis {} of {} is {}, expected {} {}", op_, axis, tensor,
                 found, e.symbol != nullptr ? e.symbol->name() : std::string_view{}, expected);
    }
    ++axis;
  }
  SALA_CHECK(x.stride[static_cast<size_t>(x.rank - 1)] == 1,
             "{}: the last axis of {} is not contiguous", op_, tensor);
  return *this;
}

const Shapes& Shapes::optional(std::string_view tensor, const In& x,
                               std::initializer_list<Extent> dims, DType dtype) const {
  return x.empty() ? *this : (*this)(tensor, x, dims, dtype);
}

}  // namespace sala
