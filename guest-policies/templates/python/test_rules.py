"""Unit tests of the rules, run by Python itself; the cases try the component."""

import unittest

from componentize_py_types import Err

import rules


class Settings(unittest.TestCase):
    def test_teams_and_memory(self):
        settings = '{"teams": ["web"], "memory_mib": 64}'
        self.assertEqual(rules.read(settings), (["web"], 64))

    def test_a_misspelt_setting_is_refused(self):
        with self.assertRaises(Err) as refused:
            rules.read('{"team": ["web"]}')
        self.assertEqual(refused.exception.value, "unknown setting team")
