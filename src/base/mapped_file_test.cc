#include "base/mapped_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <string>

#include "base/error.h"

namespace sala {
namespace {

class MappedFileTest : public ::testing::Test {
 protected:
  ~MappedFileTest() override { std::filesystem::remove(path_); }
  void write(const std::string& bytes) const { std::ofstream(path_, std::ios::binary) << bytes; }
  void refuse(const std::filesystem::path& path, std::string_view part) const {
    try {
      MappedFile::open(path);
      ADD_FAILURE() << "no Error";
    } catch (const Error& error) {
      const std::string text = error.what();
      EXPECT_NE(text.find(path.string()), std::string::npos) << text;
      EXPECT_NE(text.find(part), std::string::npos) << text;
    }
  }

  const std::filesystem::path path_ =
      std::filesystem::temp_directory_path() / fmt::format("sala-mapped-{}", ::getpid());
};

TEST_F(MappedFileTest, HoldsTheBytesOfTheFile) {
  std::string bytes(3 * 4096 + 17, '\0');
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i % 251);
  write(bytes);
  const auto file = MappedFile::open(path_);
  EXPECT_EQ(file->path(), path_);
  const auto same = [&] {
    return std::ranges::equal(file->bytes(), std::as_bytes(std::span(bytes)));
  };
  EXPECT_TRUE(same());
  file->release(file->bytes());
  EXPECT_TRUE(same()) << "released pages come back from the file";
  file->release(file->bytes().subspan(5, 4096));
  file->release(file->bytes().subspan(4096, 4096));
  file->release({});
  EXPECT_TRUE(same());
  std::filesystem::remove(path_);
  EXPECT_TRUE(same()) << "the mapping outlives the name";
}

TEST_F(MappedFileTest, AnEmptyFileHasNoBytes) {
  write("");
  EXPECT_TRUE(MappedFile::open(path_)->bytes().empty());
}

TEST_F(MappedFileTest, RefusesWhatIsNotAFile) {
  refuse(path_, "cannot open: No such file");
  refuse(std::filesystem::temp_directory_path(), "not a regular file");
  refuse("/dev/zero", "not a regular file");
  ASSERT_EQ(::mkfifo(path_.c_str(), 0600), 0);
  refuse(path_, "not a regular file");
}

}  // namespace
}  // namespace sala
