#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# pytest-rerunfailures: one thinks that a test that failed three times is one test, or three failures. In JUnit XML the first
# two stand as tests without a failure, beside a total of one, and the properties of a try are those of the next one, too.
. "$(dirname "$0")/lib.sh"
python_packages pytest==9.2.0 pytest-rerunfailures==16.7
cat >test_never.py <<'END'
def test_never(record_property):
    record_property("try", "one")
    assert False
END
pytest -q --reruns 2 -p no:cacheprovider --junitxml=report.xml test_never.py >/dev/null 2>&1 || true
cat >read.py <<'END'
import xml.etree.ElementTree as tree

(suite,) = tree.parse("report.xml").getroot()
print(f"tests={suite.get('tests')} failures={suite.get('failures')}:", ", ".join(
    f"{'passed' if case.find('failure') is None else 'failed'} with {len(list(case.iter('property')))} properties"
    for case in suite))
END
saw "report of a test that fails" \
	"tests=1 failures=1: passed with 1 properties, passed with 2 properties, failed with 3 properties" "$(python read.py)"
