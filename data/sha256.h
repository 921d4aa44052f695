// SHA-256, in bytes and in hexadecimal (64 lower-case digits).
#pragma once
#include <array>
#include <memory>
#include <span>
#include <string>
#include <string_view>

struct evp_md_ctx_st;  // libcrypto's

namespace data {

class Sha256 {  // of bytes that arrive in pieces
 public:
  Sha256();
  void update(std::span<const std::byte> bytes);
  void update(std::string_view text) { update(std::as_bytes(std::span(text))); }
  std::array<unsigned char, 32> finish();  // of what came since the last one, or since the beginning
  std::string hex();                       // the same

 private:
  void start();

  std::unique_ptr<evp_md_ctx_st, void (*)(evp_md_ctx_st*)> context_;
};

std::string sha256_hex(std::string_view bytes);

}  // namespace data
