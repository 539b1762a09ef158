namespace link_test {
int unit_1();
int unit_2();
}  // namespace link_test

int main() {
  return link_test::unit_1() == link_test::unit_2() ? 0 : 1;
}
