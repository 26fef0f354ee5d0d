"""Maps the repository's top-level folders into one installed package; everything else is in pyproject.toml."""

from setuptools import find_packages, setup

ROOTS = {"difftori_isaac": "difftori_isaac"} | {
    f"difftori_isaac.{name}": name for name in ("tasks", "configs", "scripts")
}

setup(
    packages=[
        package
        for root, folder in ROOTS.items()
        for package in (root, *(f"{root}.{sub}" for sub in find_packages(folder)))
    ],
    package_dir=ROOTS,
    package_data={
        "difftori_isaac.tasks": ["**/*.usda", "**/*.yaml", "templates/*.tmpl"],
        "difftori_isaac.configs": ["**/*.yaml"],
        "difftori_isaac": ["py.typed", "run/templates/*.html"],
    },
)
