#!/usr/bin/env python3
"""The includes in src/ and halo/ follow the table "Who may know whom" of ARCHITECTURE.md, and what CMake links is among it.

The table's rows are `| layer | may include | ... |`: a layer and the layers whose headers it may include; a name like
`cpu/device.h` allows that one header. Nothing is inherited. Tests (*_test.cc, testing*.h) may include all that lies below
their layer, those of ops and engine also the backends, and those of halo also the engine.
"""
import pathlib
import re
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent
LAYERS = {p.name: p for p in [*(ROOT / "src").iterdir(), ROOT / "halo"] if p.is_dir()}
INCLUDE = re.compile(r'^\s*#\s*include\s+"([a-z_0-9]+)/([^"]+)"', re.MULTILINE)


def table(text):
    """{layer: set of allowed layers and headers} from the first table of ARCHITECTURE.md whose head is layer, may include."""
    rows, inside = {}, False
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.lstrip().startswith("|"):
            if rows:
                break
            inside = False
        elif [cell.lower() for cell in cells[:2]] == ["layer", "may include"]:
            inside = True
        elif inside and not set(cells[0]) <= set("-: "):
            names = re.findall(r"[a-z_]+(?:/[a-z_.]+)?", cells[1].replace("`", ""))
            rows[cells[0].strip("`/ ")] = {n for n in names if n not in ("and", "only", "nothing", "none")}
    return rows


class Layers(unittest.TestCase):
    def setUp(self):
        self.allowed = table((ROOT / "ARCHITECTURE.md").read_text())
        self.assertTrue(self.allowed, "ARCHITECTURE.md has no table whose columns begin with: layer, may include")

    def test_table_names_every_folder(self):
        self.assertEqual(set(self.allowed), set(LAYERS))

    def test_table_has_no_circle(self):
        knows = {a: {n.split("/")[0] for n in names} for a, names in self.allowed.items()}

        def reach(layer, path):
            self.assertNotIn(layer, path, f"circle: {' -> '.join([*path, layer])}")
            for below in knows[layer]:
                reach(below, [*path, layer])

        for layer in knows:
            reach(layer, [])

    def test_includes(self):
        wrong = []
        files = [(layer, file) for layer, folder in LAYERS.items() for file in sorted(folder.rglob("*"))]
        for layer, file in files:
            if file.suffix not in (".h", ".cc", ".cu", ".cuh"):
                continue
            for other, header in INCLUDE.findall(file.read_text()):
                if other not in LAYERS or other == layer:
                    continue
                names = set(self.allowed.get(layer, ()))
                if file.stem.endswith("_test") or file.stem.startswith("testing"):
                    names |= self.below(layer) | {"ops": {"cpu", "cuda"}, "engine": {"cuda"}, "halo": {"engine"}}.get(layer, set())
                if other not in names and f"{other}/{header}" not in names:
                    wrong.append(f"{file.relative_to(ROOT)} includes {other}/{header}: ARCHITECTURE.md has no arrow from "
                                 f"{layer} to {other}")
        self.assertFalse(wrong, "\n" + "\n".join(wrong))

    def test_link_lists(self):
        """KNOWS of a sala_layer names no layer that the table does not."""
        for file in sorted((ROOT / "src").glob("*/CMakeLists.txt")):
            layer = file.parent.name
            knows = re.search(r"sala_layer\(\w+\s+KNOWS ([a-z_ ]+?)\s*\n", file.read_text())
            for other in knows[1].split() if knows else ():
                self.assertIn(other, {n.split("/")[0] for n in self.allowed[layer]}, f"{file.relative_to(ROOT)}")

    def test_a_name_is_of_one_class(self):
        """Two classes of one name, each in a file of its own, are one to the linker, which takes the functions of either for both."""
        open_namespace, close_namespace = re.compile(r"^(?:inline )?namespace ?([\w:]*) ?\{"), re.compile(r"^\}  // namespace")
        definition = re.compile(r"^(?:class|struct) (\w+)(?: final)?(?: : [^;]*)? \{")
        where = {}
        for folder in LAYERS.values():
            for file in sorted(folder.rglob("*.h")) + sorted(folder.rglob("*.cc")):
                if file.stem.endswith("_test"):
                    continue
                inside = []
                for line in file.read_text().splitlines():
                    if found := open_namespace.match(line):
                        inside.append(found[1])
                    elif close_namespace.match(line) and inside:
                        inside.pop()
                    elif (found := definition.match(line)) and all(inside):
                        where.setdefault("::".join([*inside, found[1]]), []).append(str(file.relative_to(ROOT)))
        self.assertIn("sala::Reply", where)
        self.assertFalse({name: files for name, files in where.items() if len(files) > 1})

    def below(self, layer):
        found = {n.split("/")[0] for n in self.allowed[layer]}
        for other in list(found):
            found |= self.below(other)
        return found


if __name__ == "__main__":
    unittest.main()
