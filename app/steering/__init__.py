"""What the Steer page edits, without drawing it: rules, history, presets, profiles, servers."""
