"""The pages of the reference: each module has `page() -> str`, made from the code of the installed package."""
