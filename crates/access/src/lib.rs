//! Who may call and how much: API keys, signed tokens, limits and budgets.
