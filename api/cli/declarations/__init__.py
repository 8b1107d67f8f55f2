"""The verbs as they are typed: their arguments, options and help. What a verb does is imported when it runs."""
