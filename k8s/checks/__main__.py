"""Runs all checks of the chart and of the container files. The last line of output is the number of passed checks."""

import os
import sys
from pathlib import Path

import chart
import containers
import objects
import settings
from report import Report

ROOT = Path(__file__).resolve().parents[2]


def check_chart(report: Report, helm: chart.Helm) -> None:
    for values in helm.value_files():
        report.check(f"lint {values.name}", lambda: helm.lint(values))
        for version in chart.KUBERNETES_VERSIONS:
            report.check(f"render {values.name} for {version}", lambda: objects.valid(helm.render(values, version), version))
        rendering = chart.Rendering(helm, values)
        for fact in objects.FACTS + settings.FACTS:
            report.check(f"{values.name}: {fact.__doc__}", lambda: fact(rendering))
    report.check("every switch of the templates is on in one file of ci/ and off in another", lambda: chart.both_ways(helm))
    for name, arguments, reason in chart.REFUSALS:
        report.check(f"refuse {name}", lambda: helm.refuses(arguments, reason))


def main() -> int:
    report = Report()
    # HELM is empty if test.sh found no helm and has reported that.
    if binary := os.environ["HELM"]:
        check_chart(report, chart.Helm(binary, ROOT / "k8s" / "carillon"))
    for fact in containers.FACTS + settings.ROOT_FACTS:
        report.check(fact.__doc__, lambda: fact(ROOT))
    return report.close()


if __name__ == "__main__":
    sys.exit(main())
