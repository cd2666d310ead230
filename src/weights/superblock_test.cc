#include "weights/superblock.h"

#include <gtest/gtest.h>

#include <numeric>

#include "ops/math.h"
#include "weights/decode.h"
#include "weights/testing_blocks.h"

namespace sala {
namespace {

/// One block: byte i is (73 i + 5 i^2 + 41) mod 256, its scale 0.0123 and, where it has one, its
/// minimum 0.0456. What the Python package gguf 0.19 (gguf.quants.dequantize) makes of it: a few of
/// its values, and the exact sum of all.
struct Decoded {
  StoredType type;
  float values[10];
  double sum;
};

constexpr int kColumns[] = {0, 17, 40, 63, 64, 100, 129, 175, 200, 255};
constexpr Decoded kDecoded[] = {
    {StoredType::q2_k,
     {0x1.3f8p-6f, -0x1.f2cp-5f, -0x1.182p-1f, -0x1.fdep-4f, 0x1.1bep-4f, -0x1.58ap-2f,
      -0x1.dbc8p-2f, -0x1.3214p-1f, -0x1.346p-3f, -0x1.e1p-2f},
     -0x1.6943ep+5},
    {StoredType::q3_k,
     {-0x1.60ap-4f, 0x1.b27cp-1f, -0x1.8668p+0f, 0x1.1b5cp-1f, 0x1.de9p-1f, -0x1.477p-2f,
      -0x1.2e4p-2f, 0x1.c56p-3f, 0x1.ac3p-3f, -0x1.f7cp-4f},
     0x1.d844p+2},
    {StoredType::q4_k,
     {0x1.f3a4p-1f, 0x1.0cd8p-2f, 0x1.00dp-2f, 0x1.e2f2p+0f, -0x1.9e48p-2f, 0x1.348ep+1f,
      0x1.73eap+0f, 0x1.0bep-2f, -0x1.2bf9p+1f, -0x1.be86p+0f},
     0x1.1ecc4p+7},
    {StoredType::q5_k,
     {0x1.abac8p+2f, 0x1.7e058p+2f, 0x1.6fbp-1f, 0x1.6b4ep+0f, -0x1.9e48p-2f, 0x1.1a93p+3f,
      0x1.73eap+0f, -0x1.26p-7f, 0x1.878b8p+2f, -0x1.c444p-1f},
     0x1.9c9dcp+9},
    {StoredType::q6_k,
     {0x1.fae6p+0f, -0x1.4a63ap+4f, 0x1.58a7dp+5f, -0x1.e9304p+3f, 0x1.24cep+1f, -0x1.56fbap+4f,
      0x1.ff6cap+4f, 0x1.3c064p+3f, -0x1.d1f8p-2f, -0x1.adc3p+2f},
     -0x1.82788p+6},
    {StoredType::iq4_xs,
     {-0x1.28bd8p+5f, -0x1.179eep+4f, 0x1.ff9fp+1f, 0x1.15f2bp+5f, 0x1.28bd8p+5f, -0x1.d4548p+2f,
      -0x1.2110ep+4f, -0x1.38492p+4f, 0x1.28bd8p+2f, -0x1.3d348p+2f},
     -0x1.9f98p-1},
};

class OneBlock : public ::testing::TestWithParam<Decoded> {};

TEST_P(OneBlock, HasTheValuesThatItsAuthorsReadInIt) {
  const auto& [type, values, sum] = GetParam();
  std::string bytes(static_cast<size_t>(stored_bytes(type, kSuper)), '\0');
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(73 * i + 5 * i * i + 41);
  float half = 0.0123f;
  for (const size_t at : testing::halves_of(type)) {
    const uint16_t bits = f32_to_f16(half);
    std::memcpy(bytes.data() + at, &bits, sizeof bits);
    half = 0.0456f;
  }
  StoredTensor tensor;
  tensor.type = type;
  tensor.shape = {1, kSuper};
  tensor.bytes = std::as_bytes(std::span(bytes));
  WeightRow row;
  ASSERT_TRUE(decode_row(tensor, 0, WeightType::f32, row));
  for (size_t i = 0; i < std::size(kColumns); ++i)
    EXPECT_EQ(row.values[kColumns[i]], values[i]) << "column " << kColumns[i];
  EXPECT_EQ(std::accumulate(row.values.begin(), row.values.end(), 0.0), sum);
}

INSTANTIATE_TEST_SUITE_P(Types, OneBlock, ::testing::ValuesIn(kDecoded),
                         [](const auto& test) { return std::string(name_of(test.param.type)); });

}  // namespace
}  // namespace sala
