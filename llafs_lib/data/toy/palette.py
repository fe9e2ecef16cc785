"""Colours (RGB, 0 to 255) that several drawings of `toy` share, so that none gives a class away."""

WHITE, BLACK, GLASS = (244, 243, 238), (30, 28, 32), (120, 152, 170)
RED, YELLOW, BLUE, GREEN = (190, 48, 44), (236, 184, 46), (52, 92, 160), (62, 124, 88)
SILVER, ORANGE, TEAL, CREAM = (182, 188, 192), (222, 116, 44), (48, 128, 134), (232, 220, 190)
