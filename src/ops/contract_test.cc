#include <gtest/gtest.h>

#include "ops/device.h"

namespace sala {
namespace {

void serial(int64_t count, const std::function<void(int64_t)>& work) {
  for (int64_t i = 0; i < count; ++i) work(i);
}

Weight zeros(WeightType type, int64_t rows, int64_t cols, bool paired) {
  return pack(
      type, rows, cols, paired,
      [&](int, int64_t, WeightRow& row) {
        row.values.resize(static_cast<size_t>(cols));
        row.bits.resize(static_cast<size_t>(cols));
      },
      serial);
}

// A breach of an op's contract ends the program with the op, the tensor and the extent.
class Contract : public testing::Test {
 protected:
  std::unique_ptr<Device> device_ = open_reference();
  Tensor x_{DType::f32, {3, 8}};
  Tensor y_{DType::f32, {3, 5}};
  Tensor ids_{DType::i32, {3}};
};

using ContractDeathTest = Contract;

TEST_F(ContractDeathTest, NamesTheOpTheTensorAndTheExtent) {
  const Weight w = zeros(WeightType::f32, 5, 8, false);
  const Weight pair = zeros(WeightType::f32, 5, 8, true);
  EXPECT_DEATH(matmul(*device_, y_, w, Epilogue::none, Compute::f32, y_),
               "matmul: axis 1 of x is 5, expected.* 8");
  EXPECT_DEATH(matmul(*device_, x_, w, Epilogue::none, Compute::f32, rows(y_.view(), 0, 2)),
               "matmul: axis 0 of y is 2, expected T 3");
  EXPECT_DEATH(matmul(*device_, x_, w, Epilogue::swiglu, Compute::f32, y_), "not paired");
  EXPECT_DEATH(matmul(*device_, x_, pair, Epilogue::none, Compute::f32, y_), "is paired");
  EXPECT_DEATH(matmul(*device_, x_, {}, Epilogue::none, Compute::f32, y_), "weight is absent");
  EXPECT_DEATH(embed(*device_, ids_, {}, pair, 1, x_), "paired");
  EXPECT_DEATH(embed(*device_, x_, {}, w, 1, x_), "embed: ids is f32, expected i32");
  EXPECT_DEATH(residual_norm(*device_, x_, x_, 1, columns(x_.view(), 0, 1), 1e-6f, x_),
               "rank 2, expected 1");
  EXPECT_DEATH(qk_norm_rope(*device_, x_, 3, {}, 1e-6f, {}, {}), "8 columns in 3 heads");
  EXPECT_DEATH(qk_norm_rope(*device_, x_, 2, {}, 1e-6f, x_, {}), "cos and sin come together");
}

TEST_F(ContractDeathTest, NamesABackendThatLacksAnOp) {
  const Weight w = zeros(WeightType::f32, 5, 8, false);
  device_->ops.matmul = nullptr;
  EXPECT_DEATH(matmul(*device_, x_, w, Epilogue::none, Compute::f32, y_),
               "reference has no matmul");
}

TEST_F(ContractDeathTest, HoldsSequencesAndPagesTogether) {
  Tensor slots(DType::i32, {1});
  Tensor starts(DType::i32, {2});
  Tensor table(DType::i32, {1, 1});
  starts.view().as<int32_t>()[1] = 3;
  Sequences sequences{.positions = ids_, .starts = starts, .page_table = table, .slots = slots};
  Tensor pool(DType::f32, {4096});
  KvPages pages{
      .field = {.data = reinterpret_cast<std::byte*>(pool.view().as<float>()), .stride = 4 * 4096},
      .kv_heads = 1,
      .head_dim = 8,
      .page = 64};
  kv_append(*device_, sequences, x_, x_, pages);
  EXPECT_DEATH(kv_append(*device_, sequences, x_, y_, pages), "kv_append: axis 1 of v is 5");
  pages.kv_heads = 2;
  EXPECT_DEATH(attention(*device_, sequences, x_, pages, {}, {}, 1, Compute::f32, {}, x_),
               "2 kv heads of size 8");
  pages.kv_heads = 8;
  EXPECT_DEATH(kv_append(*device_, sequences, x_, x_, pages),
               "are 16384 bytes apart and take 32768");
  pages.kv_heads = 1;
  pages.field.stride = 4 * 4096 + 2;
  EXPECT_DEATH(kv_append(*device_, sequences, x_, x_, pages), "are 16386 bytes apart");
  pages.field.stride = 4 * 4096;
  const Tensor frames(DType::f32, {1});
  pages.frames = frames.view();
  EXPECT_DEATH(kv_append(*device_, sequences, x_, x_, pages), "frames is f32");
  pages.frames = {};
  sequences.starts = ids_;
  EXPECT_DEATH(kv_append(*device_, sequences, x_, x_, pages),
               "axis 0 of starts is 3, expected.* 2");
}

TEST_F(ContractDeathTest, WantsRowsOfASampleWhereAHostWouldReadThem) {
  constexpr int64_t kBytes = sizeof(SampleRow);
  const Tensor rows(DType::u8, {3, kBytes});
  const Tensor wide(DType::u8, {3, kBytes + 4});
  sample(*device_, x_, rows, ids_);
  EXPECT_EQ(ids_.view().as<int32_t>()[2], 0);
  EXPECT_DEATH(sample(*device_, x_, wide, ids_), "axis 1 of rows is 44, expected.* 40");
  EXPECT_DEATH(sample(*device_, x_, columns(wide.view(), 0, kBytes), ids_), "44 bytes apart");
  EXPECT_DEATH(sample(*device_, x_, rows, x_), "tokens");
}

TEST_F(ContractDeathTest, HoldsLightningMemoryTogether) {
  Tensor slots(DType::i32, {1});
  Tensor starts(DType::i32, {2});
  const Sequences sequences{.positions = ids_, .starts = starts, .page_table = {}, .slots = slots};
  Tensor state(DType::f32, {2, 2, 4, 4});
  Tensor keys(DType::f32, {2, 2, 4, 16});
  Tensor values(DType::f32, {2, 2, 16, 4});
  Tensor slopes(DType::f32, {2});
  Tensor o(DType::f32, {3, 8});
  LightningMemory memory{.state = state, .keys = keys, .values = values, .cell = 16};
  LightningForm form;
  form.slopes = slopes;
  lightning(*device_, sequences, x_, x_, x_, memory, form, {}, o);
  EXPECT_DEATH(lightning(*device_, sequences, x_, x_, x_, memory, form, {}, x_), "o is q");
  EXPECT_DEATH(lightning(*device_, sequences, x_, x_, x_, memory, form, y_, o), "axis 1 of gate");
  memory.cell = 8;
  EXPECT_DEATH(lightning(*device_, sequences, x_, x_, x_, memory, form, {}, o),
               "axis 3 of keys is 16, expected.* 8");
}

}  // namespace
}  // namespace sala
