#include "training/evaluation/metrics.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "files.hpp"

using namespace sparsegrad::finetune;
using namespace sparsegrad::finetune::test;
using Values = std::vector<float>;

TEST_CASE("two classes") {
  // 3 true positives, 2 true negatives, 1 false positive, 2 false negatives.
  const Values predictions{1, 1, 1, 0, 0, 1, 0, 0};
  const Values labels{1, 1, 1, 0, 0, 0, 1, 1};
  const Metric matthews = matthews_correlation(predictions, labels);
  CHECK(matthews.name == "matthews_correlation");
  CHECK(matthews.defined);
  CHECK(matthews.value == doctest::Approx((3.0 * 2 - 1 * 2) / std::sqrt(4.0 * 5 * 4 * 3)));
  CHECK(accuracy(predictions, labels).value == doctest::Approx(5.0 / 8));
  CHECK(f1_score(predictions, labels).value == doctest::Approx(6.0 / 9));
  CHECK(matthews_correlation(labels, labels).value == doctest::Approx(1.0));
  CHECK(matthews_correlation(Values{0, 1}, Values{1, 0}).value == doctest::Approx(-1.0));
}

TEST_CASE("three classes: R_K of the confusion matrix, as scikit-learn has it") {
  // matthews_corrcoef of scikit-learn gives 0.5454545454545454.
  const Values labels{0, 0, 0, 1, 1, 1, 2, 2, 2, 2};
  const Values predictions{0, 0, 1, 1, 1, 2, 2, 2, 2, 0};
  const Metric metric = matthews_correlation(predictions, labels, 3);
  CHECK(metric.name == "matthews_correlation");
  CHECK(metric.value == doctest::Approx((7.0 * 10 - 34) / std::sqrt((100.0 - 34) * (100.0 - 34))));
  CHECK(matthews_correlation(labels, labels, 3).value == doctest::Approx(1.0));
  // Of two classes it is the correlation of two classes.
  const Values two{1, 1, 1, 0, 0, 1, 0, 0};
  const Values true_two{1, 1, 1, 0, 0, 0, 1, 1};
  CHECK(matthews_correlation(two, true_two, 3).value ==
        doctest::Approx(matthews_correlation(two, true_two).value));
  CHECK_FALSE(matthews_correlation(Values(10, 1.0F), labels, 3).defined);
  check_says(error_of([] { matthews_correlation(Values{3}, Values{1}, 3); }), "expected classes from 0 to 2");
  const std::vector<Metric> ax = evaluate(find_task("ax"), predictions, labels);
  REQUIRE(ax.size() == 2);
  CHECK(ax[0].value == metric.value);
  CHECK(ax[1].value == doctest::Approx(0.7));
}

TEST_CASE("what is not defined is 0 and says so") {
  const auto undefined = [](const Metric& metric) {
    CHECK(metric.value == 0.0);
    CHECK_FALSE(metric.defined);
  };
  const Values mixed{0, 1, 1, 0};
  for (const float constant : {0.0F, 1.0F}) {
    const Values same(4, constant);
    undefined(matthews_correlation(same, mixed));
    undefined(matthews_correlation(mixed, same));
    undefined(pearson_correlation(same, mixed));
    undefined(spearman_correlation(mixed, same));
  }
  undefined(pearson_correlation(Values(3, 0.1F), Values{1, 2, 3}));
  undefined(pearson_correlation(Values{1}, Values{2}));
  undefined(f1_score(Values(3, 0.0F), Values(3, 0.0F)));
  CHECK(f1_score(Values(3, 0.0F), Values{0, 0, 1}).defined);  // wrong, but defined
  CHECK(f1_score(Values(3, 0.0F), Values{0, 0, 1}).value == 0.0);
  CHECK(accuracy(Values(3, 0.0F), Values(3, 0.0F)).value == 1.0);
}

TEST_CASE("correlations") {
  // By hand: deviations (-1.5, -.5, .5, 1.5) and (-2.25, -.25, -1.25, 3.75).
  const Values x{1, 2, 3, 4};
  const Values y{1, 3, 2, 7};
  CHECK(pearson_correlation(x, y).value == doctest::Approx(8.5 / std::sqrt(5.0 * 20.75)));
  CHECK(spearman_correlation(x, y).value == doctest::Approx(0.8));
  CHECK(spearman_correlation(x, Values{10, 20, 20, 30}).value ==
        doctest::Approx(4.5 / std::sqrt(5.0 * 4.5)));  // ties
  CHECK(spearman_correlation(x, Values{-1, -2, -4, -9}).value == doctest::Approx(-1.0));
  CHECK(pearson_correlation(x, x).value <= 1.0);
  // Far from 0, where sums of squares alone would lose everything.
  CHECK(pearson_correlation(Values{1000001, 1000002, 1000003}, Values{1, 2, 3}).value ==
        doctest::Approx(1.0));
}

TEST_CASE("a task's metrics, the main one first") {
  const Values predictions{1, 0, 1};
  const Values labels{1, 0, 0};
  const auto names = [&](const char* task) {
    std::string out;
    for (const Metric& metric : evaluate(find_task(task), predictions, labels))
      out += metric.name + " ";
    return out;
  };
  CHECK(names("cola") == "matthews_correlation accuracy ");
  CHECK(names("sst2") == "accuracy ");
  CHECK(names("mrpc") == "accuracy f1 ");
  CHECK(names("stsb") == "pearson spearman ");
}

TEST_CASE("misuse is refused") {
  check_says(error_of([] { accuracy(Values{1}, Values{1, 2}); }), "found 1 predictions and 2 labels");
  check_says(error_of([] { pearson_correlation(Values{}, Values{}); }), "found 0 predictions");
  check_says(error_of([] { matthews_correlation(Values{2}, Values{1}); }),
             "expected classes 0 and 1, found the prediction 2");
  const float nan = std::numeric_limits<float>::quiet_NaN();
  check_says(error_of([&] { spearman_correlation(Values{1, nan}, Values{1, 2}); }), "as prediction 1");
  check_says(error_of([&] { accuracy(Values{1}, Values{nan}); }), "as label 0");
}

TEST_CASE("a defined value is better than none, and a larger one than a smaller") {
  const Metric none{"pearson", 0, false};
  const Metric negative{"pearson", -0.3, true};
  const Metric positive{"pearson", 0.2, true};
  CHECK(is_better(negative, none));
  CHECK_FALSE(is_better(none, negative));
  CHECK_FALSE(is_better(none, none));
  CHECK(is_better(positive, negative));
  CHECK_FALSE(is_better(negative, positive));
  CHECK_FALSE(is_better(negative, negative));
}
